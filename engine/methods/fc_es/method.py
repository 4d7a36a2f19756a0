"""FC-ES and FC-ESER (Liu, "Face Clustering via Early Stopping and Edge Recall", arXiv 2408.13431).

How ``fc_es`` scores: every vertex walks along its neighbours, nearest first, until the share of steps that lead to
vertices which both ends list, NEP, falls below theta. An edge's score is the largest theta at which a walk of either
end still passes it: the least NEP met up to there. So any least score of a partition is a theta, and edges that pass it
are those of the walks it stops. ``fc_eser`` takes back edges beyond the stop whose NEP is at least ``fc_es.delta`` and
which a learned test of pairs gives a probability of at least ``fc_es.eta``: their score is that probability. Either
partitions in any way; as released by the map equation at theta 0.22 (presets ``fc_es/original``, ``fc_eser/original``).
Training chooses partition and theta on held-out identities.

Deviations: links are undirected, and weigh as their score, where the released code keeps directions and gives each its
own NEP; training chooses how many neighbours are read, too (published: 80), as NEP says little where they are many more
than an identity has rows. The test of pairs is the structural scorer's boosted trees, fitted to all edges of the graph,
where the released one is a transformer over both ends' 80 neighbours, fitted to the edges beyond the stop: a thousand
times the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from engine.graph.adjacency import undirected_edges
from engine.graph.structural_inputs import MAX_RANKS
from engine.learning import selection
from engine.learning.held_out import hold_out
from engine.learning.settings import TrainSettings
from engine.methods.base import Graph, Method, Scoring, Training, which_edges
from engine.methods.fc_es.early_stop import edge_probabilities, edge_scores
from engine.methods.fc_es.settings import FC_ES_PRESETS, FC_ESER_PRESETS, FcEsSettings
from engine.methods.fitting import FitNothing
from engine.methods.model_card import Model, Nature
from engine.methods.structural.method import Structural, fit_and_score
from engine.methods.structural.settings import TreesSettings
from engine.methods.structural.steps import StructuralScores
from engine.partitions.base import Edges
from engine.partitions.select import Selection, select_operating_points
from engine.runs.step import Facts, RowStep, Task
from engine.settings import Settings
from engine.stages import Cost
from engine.steps.edges import EDGE_BYTES, SCORED, STORED_BYTES, EdgeFacts, Scores, iterate_edges, read_edges
from engine.steps.knn import Knn, Order
from engine.steps.labels import Labelled, OutsideFile

VERSION = 3  # of every step here
COUNTS = (10, 20, 40)  # of neighbours that training tries, beside all
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

    kind, version = "fc_es.select", VERSION
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


class FcEs(Method):
    """FC-ES."""

    name = "fc_es"
    presets = FC_ES_PRESETS
    learned = True
    chooses = True
    min_score = 0.22
    read_facts = ("neighbors",)
    run_sections = (FcEsSettings,)
    training_sections = (TrainSettings,)

    def reads(self, name: str, *, training: bool) -> bool:
        """Nothing is taken back."""
        return name not in ("fc_es.delta", "fc_es.eta") and super().reads(name, training=training)

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``nep``, of each row and what it lists, and ``score``."""
        return Scoring(_walk_scores(graph, settings, model, {}))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``select``, which chooses the number of neighbours and theta; the weights are none."""
        fit = FitNothing(knn=graph.knn)
        return Training(fit, _select(graph, settings, labels, settings.train.holdout, None))


class FcEser(Method):
    """FC-ES, and the structural scorer, which says what is taken back."""

    name = "fc_eser"
    presets = FC_ESER_PRESETS
    learned = True
    needs_model = True
    min_score = 0.22
    read_facts = ("neighbors", "delta", "eta")
    run_sections = (FcEsSettings,)
    training_sections = (TreesSettings,)
    learns_in_halves = True

    def reads(self, name: str, *, training: bool) -> bool:
        """What is taken back is settled by training."""
        if name in ("fc_es.delta", "fc_es.eta"):
            return training
        return super().reads(name, training=training)

    def holdout(self, settings: Settings) -> float | None:
        """Return the share of identities that the trees hold out."""
        return settings.of(TreesSettings).holdout

    def check_weights(self, model: Model) -> None:
        """Refuse what is no structural scorer."""
        Structural().check_weights(model)

    def untrained(self, settings: Settings) -> Nature:
        """What is taken back."""
        config = settings.of(FcEsSettings)
        return Nature(neighbors=config.neighbors or MAX_RANKS, delta=config.delta, eta=config.eta)

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``neighborhoods``, ``prior`` and ``pairs``, the trees' probability of every edge; ``nep`` and ``score``."""
        assert model is not None
        read = _edges_read(graph, settings, model)
        pairs = _as_pairs(Structural().score(graph, settings, model).score, scratch=True, **read)
        recall = {"delta": model.nature.delta, "eta": model.nature.eta}
        return Scoring(_walk_scores(graph, settings, model, {**recall, "pairs": pairs}))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """The trees' steps up to ``pairs``, and ``select``, which chooses the number of neighbours and theta."""
        fit, scoring = fit_and_score(graph, settings, labels.given(), which_edges(settings))
        pairs = _as_pairs(scoring.score)
        return Training(fit, _select(graph, settings, labels, settings.of(TreesSettings).holdout, pairs))


class Pairs(StructuralScores):
    """The trees' probability of every edge, beside the scores that walks give."""

    title = "pairs"


def _as_pairs(score: Scores, **changed: Any) -> Pairs:
    values = {each.name: getattr(score, each.name) for each in fields(score) if each.init}
    return Pairs(**values | changed)


def _read_neighbors(graph: Graph, settings: Settings, model: Model | None) -> int:
    return min(settings.of(FcEsSettings).neighbors or (model.nature.neighbors if model else MAX_RANKS), graph.k)


def _edges_read(graph: Graph, settings: Settings, model: Model | None) -> dict[str, Any]:
    count, edges = _read_neighbors(graph, settings, model), which_edges(settings, model)
    return edges | {"max_edges_per_vertex": min(edges["max_edges_per_vertex"] or count, count)}


def _walk_scores(graph: Graph, settings: Settings, model: Model | None, recall: Mapping[str, Any]) -> WalkScores:
    n = graph.num_rows
    nep = Nep(num_rows=n, knn=graph.knn, neighbors=_read_neighbors(graph, settings, model))
    return WalkScores(num_rows=n, knn=graph.knn, nep=nep, **_edges_read(graph, settings, model), **recall)


def _select(graph: Graph, settings: Settings, labels: OutsideFile, holdout: float, pairs: Scores | None) -> SelectWalk:
    k, config = graph.k, settings.of(FcEsSettings)
    counts = [config.neighbors] if config.neighbors else [each for each in COUNTS if each < k] + [k]
    given: dict[str, Any] = {} if pairs is None else {"delta": config.delta, "eta": config.eta}
    return SelectWalk(
        knn=graph.knn,
        order=graph.order,
        pairs=pairs,
        seed=settings.seed,
        holdout=holdout,
        step=settings.partition.step,
        counts=tuple(min(each, k, MAX_RANKS) for each in counts),
        selection=selection.VERSION,
        **which_edges(settings),
        **labels.given(),
        **given,
    )
