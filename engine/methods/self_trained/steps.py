"""Steps of the run without labels: what is taken out of the vectors, two opinions of who belongs together, and where
both agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from safetensors.numpy import save

from engine.clustering.label_free import LEAST_EXPECTED, TRANSITIVE
from engine.learning import metric
from engine.methods.cosine.steps import CosineScores
from engine.methods.self_trained.strangers import SAMPLE_ROWS, Lines, Told, edge_log_odds, find_strangers
from engine.partitions import Clustered
from engine.partitions.map_equation import Modules
from engine.partitions.propagation import Propagated
from engine.runs.step import Facts, Step, Task
from engine.stages import Cost
from engine.steps.edges import EDGE_BYTES, STORED_BYTES, EdgeFacts, Scores
from engine.steps.ingest import Rows, Vectors
from engine.steps.knn import Knn
from engine.steps.metric import WEIGHTS
from engine.steps.point import ChosenPoint
from engine.tiles import tile_bounds
from engine.units import CHUNK_ROWS, NO_NEIGHBOR, NO_SIMILARITY

_SURELY_APART = 0.99  # cosine below which two rows are no copies, whatever the rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Centre(Step[Facts]):
    """The mean of the unit vectors, as a metric that takes it away, because what all rows share tells none apart."""

    kind, version, title = "self_trained.centre", 1, "centre"
    vectors: Rows

    def cost(self) -> Cost:
        """Project a pass over the rows."""
        num_rows, dim = self.vectors.num_rows, self.vectors.dim
        return Cost(
            fixed_bytes=CHUNK_ROWS * dim * 16 + dim * dim * 8, disk_bytes=dim * dim * 4, seconds=num_rows * dim / 5e8
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Sum the rows chunk by chunk, in float64."""
        features_ND = task.array(self.vectors, "features")
        num_rows, dim = features_ND.shape
        total = np.zeros(dim)
        for begin, end in tile_bounds(0, num_rows, CHUNK_ROWS):
            total += np.asarray(features_ND[begin:end], np.float64).sum(axis=0)
        mean = (total / num_rows).astype(np.float32)
        tensors = metric.to_tensors(metric.Metric(mean, np.eye(dim, dtype=np.float32)))
        task.write_file(WEIGHTS, lambda stream: stream.write(save(tensors)))
        return {"shared": float(np.sqrt((mean.astype(np.float64) ** 2).sum()))}


@dataclass(frozen=True, kw_only=True, eq=False)
class Distinct(Knn):
    """The KNN graph without copies, and ``original`` (N,) int32: the lowest vertex that has a vertex's very vector.

    A copy is the same observation again. It says nothing about who belongs together, and would be every row's nearest.
    """

    kind, version, title = "self_trained.distinct", 1, "distinct"
    listed: Knn

    def cost(self) -> Cost:
        """Project a copy of the lists."""
        n, entries = self.num_rows, self.num_rows * self.k
        return Cost(bytes_per_row=self.k * 32, disk_bytes=entries * 8 + n * 4, seconds=entries / 1e8)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Write the lists of these rows."""
        neighbors = np.array(task.array(self.listed, "neighbors")[start:stop])
        similarities = np.array(task.array(self.listed, "similarities")[start:stop])
        original = np.arange(start, stop, dtype=np.int32)
        features_ND = task.array(self.features, "features")
        bits = features_ND.view(np.int16 if features_ND.dtype == np.float16 else np.int32)
        _leave_out_copies(bits, neighbors, similarities, original)
        task.write_rows("neighbors", neighbors, np.int32)
        task.write_rows("similarities", similarities, np.float32)
        task.write_rows("original", original, np.int32)


@njit(nogil=True, cache=True)
def _leave_out_copies(bits, neighbors, similarities, original):  # type: ignore[no-untyped-def]
    for row in range(len(neighbors)):
        own, kept = original[row], 0
        for k in range(neighbors.shape[1]):
            other, similarity = neighbors[row, k], similarities[row, k]
            if other >= 0 and similarity > _SURELY_APART and (bits[own] == bits[other]).all():
                original[row] = min(original[row], other)
                continue
            neighbors[row, kept], similarities[row, kept] = other, similarity
            kept += 1
        neighbors[row, kept:] = NO_NEIGHBOR
        similarities[row, kept:] = NO_SIMILARITY


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundStrangers(Step[Told]):
    """How similar strangers are to each row: ``scale``, ``place`` and ``classes`` (N,), and the table ``log_odds``."""

    kind, version, title = "self_trained.strangers", 1, "strangers"
    facts = Told
    features: Vectors[Any]
    knn: Knn
    seed: int

    def cost(self) -> Cost:
        """Project the sample's products, and two passes over the lists."""
        n, k, dim = self.knn.num_rows, self.knn.k, self.features.dim
        sample = min(n, SAMPLE_ROWS)
        return Cost(
            fixed_bytes=n * 24 + sample * (sample * 12 + dim * 8) + CHUNK_ROWS * k * 64 + (64 << 20),
            bytes_per_thread=sample * (dim + 2_048) * 4,
            disk_bytes=n * 9 + (1 << 17),
            seconds=n * k / 1e7 + n * sample * dim / 4e10 + 10,
        )

    def run(self, task: Task, start: int, stop: int) -> Told:
        """Find them."""
        graph = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        features_ND = task.array(self.features, "features")
        lines, told = find_strangers(features_ND, *graph, seed=self.seed, threads=task.threads)
        task.write_npy("scale", lines.scale_N)
        task.write_npy("place", lines.place_N)
        task.write_npy("classes", lines.classes_N)
        task.write_npy("log_odds", lines.log_odds_CB)
        return told


@dataclass(frozen=True, kw_only=True, eq=False)
class EvidenceScores(Scores):
    """Every edge with the probability that strangers do not explain it."""

    kind, version, title = "self_trained.evidence", 1, "evidence"
    strangers: FoundStrangers

    def cost(self) -> Cost:
        """Project a block of edges."""
        n, k = self.num_rows, self.knn.k
        return Cost(
            fixed_bytes=n * 9, bytes_per_row=k * EDGE_BYTES, disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1e7
        )

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        names = ("scale", "place", "classes", "log_odds")
        lines = Lines(*(np.asarray(task.npy(self.strangers, name)) for name in names))

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            return (1 / (1 + np.exp(-edge_log_odds(lines, sources, targets, similarities)))).astype(np.float32)

        return self.write(task, start, stop, give)


class Edges(CosineScores):
    """The cosine graph's edges, for the opinion by codelength."""

    title = "edges"


class FirstPoint(ChosenPoint):
    """Where the graph is cut for the opinion by codelength."""

    title = "first_point"


class ByCodelength(Propagated):
    """One opinion: the clusters in which a walk along the graph takes the fewest bits."""

    title = "by_codelength"


class ByEvidence(Modules):
    """The other opinion: the modules of the edges that strangers do not explain."""

    title = "by_evidence"


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreed(Clustered):
    """The clusters that both opinions hold together: ``roots`` (N,), and ``opinions`` (2, N), the roots of either.

    Where no edge has evidence although neighbours are neighbours of each other, the data have no gap that evidence
    could show. Then clusters are told apart by codelength alone.
    """

    kind, version, title = "self_trained.agreed", 1, "first"
    by_evidence: ByEvidence
    by_codelength: ByCodelength
    strangers: FoundStrangers

    def cost(self) -> Cost:
        """Project a few arrays of all rows."""
        n = self.strangers.knn.num_rows
        return Cost(fixed_bytes=n * 40, disk_bytes=n * 12, seconds=n / 5e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Write where both agree."""
        evidence_N = np.asarray(task.npy(self.by_evidence, "roots"))
        codelength_N = np.asarray(task.npy(self.by_codelength, "roots"))
        found = task.facts(self.strangers)
        no_gap = found.expected < LEAST_EXPECTED * len(evidence_N) and found.transitivity > TRANSITIVE
        if no_gap:
            evidence_N = codelength_N
        keys = evidence_N.astype(np.int64) * len(evidence_N) + codelength_N
        _, firsts, places = np.unique(keys, return_index=True, return_inverse=True)
        roots_N = firsts[places].astype(evidence_N.dtype)
        task.write_npy("roots", roots_N)
        task.write_npy("opinions", np.stack([evidence_N, codelength_N]))
        return {"clusters": len(firsts), "no_gap": bool(no_gap)}
