"""GCN-V's steps: a vertex's confidence, the links that follow, and the choice of pass and least cosine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.learning import selection
from engine.learning.held_out import hold_out
from engine.learning.settings import TrainSettings
from engine.methods.fitting import Weighted, checkpoint, report_steps, write_weights
from engine.methods.gcn_v.confidence import (
    ConfidenceData,
    build_network,
    confidence_targets,
    embed_vertices,
    link_scores,
    listed_cosines,
    nearest_confident,
    train_confidence,
)
from engine.methods.gcn_v.settings import GcnVSettings
from engine.partitions.select import Selection
from engine.runs.step import Facts, RowStep, Task
from engine.stages import Cost
from engine.steps.aggregate import Aggregate
from engine.steps.edges import EDGE_BYTES, STORED_BYTES, EdgeFacts, Scores
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order
from engine.steps.labels import Labelled
from engine.storage.context import hold

VERSION = 2  # of every step here
PASSES = ("vectors", "embedded")


@dataclass(frozen=True, kw_only=True, eq=False)
class FitConfidence(Labelled[Facts]):
    """The confidence network, trained from the last checkpoint: ``weights.safetensors``."""

    kind, version, title = "gcn_v.fit", VERSION, "fit"
    features: Vectors[Any]
    aggregate: Aggregate
    knn: Knn
    order: Order | None
    network: GcnVSettings
    train: TrainSettings
    identity_balance: float
    seed: int

    def cost(self) -> Cost:
        """Minibatches of vertices, or all of them."""
        n, dim, hidden = self.knn.num_rows, self.features.dim, self.network.hidden
        rows = self.network.vertices_per_step or n
        products = rows * hidden * (2 * dim + hidden) * 6.0
        return Cost(
            fixed_bytes=n * 48 + rows * (dim * 12 + hidden * 24),
            disk_bytes=16 << 20,
            seconds=self.train.max_steps * (products / 5e10 + rows * dim / 5e8) + n * self.knn.k / 1e8,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Train."""
        identities_N = self.identities(self.order, task)
        graph = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        data = ConfidenceData(
            task.array(self.features, "features"),
            task.array(self.aggregate, "aggregated"),
            confidence_targets(*graph, identities_N),
            identities_N,
        )
        with checkpoint(task) as kept:
            network, history = train_confidence(
                data,
                model=self.network,
                config=self.train,
                identity_balance=self.identity_balance,
                seed=self.seed,
                checkpoint=kept,
                progress=report_steps(task),
                device=task.call.device,
            )
            write_weights(task, network.state_dict())
        network_tree = self.network.model_dump(mode="json")
        return {"network": network_tree, "history": [entry.__dict__ for entry in history]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Confidence(Weighted[None], RowStep[None]):
    """``confidence`` (N,) float32 and ``codes`` (N, H) float16, unit embeddings, of every vertex.

    ``tensors`` comes before the names of the network's tensors.
    """

    kind, version, title = "gcn_v.confidence", VERSION, "confidence"
    features: Vectors[Any]
    aggregate: Aggregate
    network: GcnVSettings
    tensors: str = ""

    def cost(self) -> Cost:
        """A tile of the network's layers."""
        n, dim, hidden = self.num_rows, self.features.dim, self.network.hidden
        return Cost(
            bytes_per_row=hidden * 2 + 8,
            fixed_bytes=64 << 20,
            bytes_per_thread=1024 * (dim + hidden * 2) * 8,
            disk_bytes=n * (hidden * 2 + 4),
            seconds=n * hidden * (2 * dim + hidden) * 2 / 5e10,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Estimate these vertices' confidence."""
        aggregated_ND = task.array(self.aggregate, "aggregated")
        build = partial(build_network, aggregated_ND.shape[1], self.network, seed=0)
        network = self.read_network(task, build, prefix=self.tensors)
        rows = task.array(self.features, "features")[start:stop], aggregated_ND[start:stop]
        codes, found = embed_vertices(network, *rows, threads=task.threads, device=task.call.device)
        task.write_rows("codes", codes, np.float16)
        task.write_rows("confidence", found, np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Links(RowStep[Facts]):
    """What each vertex links to, -1 for peaks, and the link's cosine: ``linked`` int32, ``cosines`` float32, (N, C).

    Columns are the passes: by cosines of the vectors, and of their embeddings.
    """

    kind, version, title = "gcn_v.links", VERSION, "links"
    knn: Knn
    confidence: Confidence

    def cost(self) -> Cost:
        """A block of lists."""
        n, k = self.num_rows, self.knn.k
        return Cost(fixed_bytes=n * 4, bytes_per_row=k * 32, disk_bytes=n * 16, seconds=n * k / 4e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Link these vertices."""
        confidence_N = hold(
            ("confidences", task.call.digest), lambda: np.array(task.array(self.confidence, "confidence"))
        )
        linked, cosines = self.find_links(task, start, self.listed_in_passes(task, start, stop), confidence_N)
        task.write_rows("linked", linked, np.int32)
        task.write_rows("cosines", cosines, np.float32)
        return {"peaks": int((linked[:, 0] < 0).sum())}

    def listed_in_passes(self, task: Task, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (n, K) of rows ``start..stop`` with what they list, of each pass: of vectors, and of embeddings."""
        own = np.asarray(task.array(self.knn, "similarities")[start:stop], np.float32)
        neighbors_nK = task.array(self.knn, "neighbors")[start:stop]
        return own, listed_cosines(task.array(self.confidence, "codes"), neighbors_nK, start, threads=task.threads)

    def find_links(
        self, task: Task, start: int, listed: tuple[np.ndarray, np.ndarray], confidence_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each row's nearest neighbour of higher confidence, and its cosine, by pass: (n, 2) each."""
        neighbors_nK = task.array(self.knn, "neighbors")[start : start + len(listed[0])]
        pairs = [nearest_confident(neighbors_nK, cosines_nK, confidence_N, start) for cosines_nK in listed]
        return np.stack([targets for targets, _ in pairs], axis=1), np.stack([cosines for _, cosines in pairs], axis=1)


def link_column(task: Task, links: Links, number: int) -> tuple[np.ndarray, np.ndarray]:
    """What every vertex links to, -1 if to nothing, and the link's cosine: one column."""
    linked_N, cosines_N = (np.ascontiguousarray(task.array(links, name)[:, number]) for name in ("linked", "cosines"))
    return linked_N, cosines_N


@dataclass(frozen=True, kw_only=True, eq=False)
class LinkScores(Scores):
    """Every edge with its link's cosine, -1 for an edge that is no link. ``column``: of the links."""

    kind, version = "gcn_v.score", VERSION
    links: Links
    column: int

    def cost(self) -> Cost:
        """A block of edges."""
        n, k = self.num_rows, self.knn.k
        return Cost(
            fixed_bytes=n * 8, bytes_per_row=k * EDGE_BYTES, disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1e7
        )

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        linked_N, cosines_N = hold(("links", task.call.digest), lambda: link_column(task, self.links, self.column))
        return self.write(task, start, stop, lambda a, b, _: link_scores(a, b, linked_N, cosines_N))


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectPass(Labelled[Facts], Selection):
    """The pass and its least cosine, chosen on the identities held out from training."""

    kind, version = "gcn_v.select", VERSION
    links: Links
    order: Order | None
    seed: int
    holdout: float

    def cost(self) -> Cost:
        """A union-find for each cosine tried."""
        n = self.links.num_rows
        return Cost(fixed_bytes=n * 200, disk_bytes=1 << 16, seconds=n * self.links.knn.k / 1e7)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Choose; write ``selected.json``."""
        identities_N = self.identities(self.order, task)
        held_out_N = hold_out(identities_N, self.holdout, self.seed)
        points = [
            selection.select_links(*link_column(task, self.links, number), identities_N, held_out_N)
            for number in range(len(PASSES))
        ]
        best = int(np.argmax([selection.mean_f(point) for point in points]))
        held_out_f = {PASSES[number]: point["held_out_f"] for number, point in enumerate(points)}
        facts = {"pass": PASSES[best], "held_out_f": held_out_f}
        return write_choice(task, points[best], facts)


def write_choice(task: Task, point: Facts, facts: Facts) -> Facts:
    """Write ``selected.json`` of a method that joins links: a point of ``components``, and facts of the model."""
    task.write_json("selected", {"operating_points": {"components": point}, "preferred": "components", "facts": facts})
    return {"preferred": "components", **point}
