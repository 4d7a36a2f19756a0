"""FC-ES's and FC-ESER's steps: NEP, the scores of walks, and the choice of theta."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.graph.adjacency import undirected_edges
from engine.learning import selection
from engine.learning.held_out import hold_out
from engine.methods.fc_es.early_stop import edge_probabilities, edge_scores
from engine.methods.structural.steps import StructuralScores
from engine.partitions import PARTITIONS_VERSION
from engine.partitions.base import Edges
from engine.partitions.select import Selection, select_operating_points
from engine.runs.step import Facts, RowStep, Task
from engine.stages import Cost
from engine.steps.edges import EDGE_BYTES, SCORED, STORED_BYTES, EdgeFacts, Scores, iterate_edges, read_edges
from engine.steps.knn import Knn, Order
from engine.steps.labels import Labelled

VERSION = 3  # of every step here
COMPARED = 5e8  # listings that two ends are compared by, a second


@dataclass(frozen=True, kw_only=True, eq=False)
class Nep(RowStep[None]):
    """``nep`` (N, C) float16: the share of steps of a row and what it lists that lead to what both list."""

    kind, version, title = "fc_es.nep", VERSION, "nep"
    knn: Knn
    neighbors: int

    def cost(self) -> Cost:
        """Lists compared with lists."""
        n, count = self.num_rows, self.neighbors
        return Cost(bytes_per_row=count * 2, disk_bytes=n * count * 2, seconds=n * count * count / COMPARED)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Compare what these rows list."""
        graph = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        found = edge_probabilities(*graph, start, stop, count=self.neighbors, threads=task.threads)
        task.write_rows("nep", found, np.float16)


@dataclass(frozen=True, kw_only=True, eq=False)
class WalkScores(Scores):
    """Every edge with the largest theta at which a walk of either end passes it.

    With ``pairs``, edges that are taken back have what it says of them: those of NEP ``delta`` and probability ``eta``.
    """

    kind, version = "fc_es.score", VERSION
    nep: Nep
    pairs: Scores | None = None
    delta: float = 0.0
    eta: float = 0.0

    def cost(self) -> Cost:
        """A block of edges."""
        n, k = self.num_rows, self.knn.k
        disk_bytes = n * self.nep.neighbors * STORED_BYTES
        return Cost(bytes_per_row=k * EDGE_BYTES, disk_bytes=disk_bytes, seconds=n * k / 1e7)

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        pieces = None if self.pairs is None else read_edges(task.input(self.pairs), start, stop, ("score",))
        neighbors_NK, nep_NC = task.array(self.knn, "neighbors"), task.array(self.nep, "nep")

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            pairs = next(pieces)[0] if pieces else None
            return _scores(neighbors_NK, nep_NC, sources, targets, pairs, self.delta, self.eta, task.threads)

        return self.write(task, start, stop, give)


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectWalk(Labelled[Facts], Selection):
    """The number of neighbours, the partition and theta, chosen on held-out identities; ``counts`` are tried."""

    kind, version = "fc_es.select", VERSION + PARTITIONS_VERSION
    knn: Knn
    order: Order | None
    pairs: Scores | None
    seed: int
    holdout: float
    step: float
    counts: tuple[int, ...]
    selection: int
    min_similarity: float
    max_edges_per_vertex: int
    delta: float | None = None
    eta: float | None = None

    def cost(self) -> Cost:
        """All edges in memory, for each count."""
        n, k = self.knn.num_rows, self.knn.k
        return Cost(
            fixed_bytes=n * 200 + n * k * 48,
            disk_bytes=1 << 16,
            seconds=sum(n * count / 2.8e5 + n * count * count / COMPARED for count in self.counts),
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Choose; write ``selected.json``."""
        identities_N = self.identities(self.order, task)
        held_out_N = hold_out(identities_N, self.holdout, self.seed)
        graph, n = (task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")), len(identities_N)
        found, counts = [], self.counts
        for number, count in enumerate(counts):
            task.report(number / len(counts), f"{count} neighbours")
            nep_NC = edge_probabilities(*graph, 0, n, count=count, threads=task.threads)
            found.append(
                select_operating_points(
                    self._edges(task, nep_NC, count),
                    identities_N=identities_N,
                    held_out_N=held_out_N,
                    step=self.step,
                    seed=self.seed,
                    threads=task.threads,
                )
            )
        values = [selection.mean_f(points[points["preferred"]]) for points in found]
        best = int(np.argmax(values))
        preferred, points = found[best].pop("preferred"), found[best]
        facts: Facts = {
            "neighbors": counts[best],
            "min_similarity": self.min_similarity,
            "held_out_f": dict(zip(map(str, counts), values, strict=True)),
            **({} if self.delta is None else {"delta": self.delta, "eta": self.eta}),
        }
        task.write_json("selected", {"operating_points": points, "preferred": preferred, "facts": facts})
        return {"preferred": preferred, "neighbors": counts[best], **points[preferred]}

    def _edges(self, task: Task, nep_NC: np.ndarray, count: int) -> Edges:
        """All edges that a walk may pass or that may be taken back."""
        neighbors_NK, similarities_NK = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        again = (self.delta or 0.0, self.eta or 0.0, task.threads)
        if self.pairs is not None:
            parts = []
            for sources, targets, pairs in iterate_edges(task.input(self.pairs), SCORED):
                scores = _scores(neighbors_NK, nep_NC, sources, targets, pairs, *again)
                kept = scores > 0
                parts.append((sources[kept], targets[kept], scores[kept]))
            return Edges(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        most = min(self.max_edges_per_vertex or count, count)
        sources, targets, _ = undirected_edges(
            neighbors_NK,
            similarities_NK,
            0,
            len(neighbors_NK),
            self.min_similarity,
            max_per_vertex=most,
            threads=task.threads,
        )
        return Edges(sources, targets, _scores(neighbors_NK, nep_NC, sources, targets, None, *again))


def _scores(
    neighbors_NK: np.ndarray,
    nep_NC: np.ndarray,
    sources: np.ndarray,
    targets: np.ndarray,
    pairs: np.ndarray | None,
    delta: float,
    eta: float,
    threads: int,
) -> np.ndarray:
    passed = edge_scores(neighbors_NK, nep_NC, sources, targets, walked=True, threads=threads)
    if pairs is None:
        return passed
    nep = edge_scores(neighbors_NK, nep_NC, sources, targets, walked=False, threads=threads)
    recalled = (nep >= np.float32(delta)) & (pairs >= np.float32(eta))
    return np.where(recalled, np.maximum(passed, pairs), passed)


class Pairs(StructuralScores):
    """The trees' probability of every edge, beside the scores that walks give."""

    title = "pairs"
