"""Steps of the run without labels: what is taken out of the vectors, two opinions of who belongs together, and where
both agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from safetensors.numpy import save

from engine.clustering.label_free import LEAST_TRUST, LOCAL_RANK, TRANSITIVE
from engine.clustering.map_equation import find_modules
from engine.clustering.module_rounds import ModuleRange
from engine.learning import metric
from engine.methods.cosine.steps import CosineScores
from engine.methods.self_trained.strangers import (
    FEWEST_POINTS,
    SAMPLE_ROWS,
    Lines,
    Told,
    edge_log_odds,
    falling,
    find_strangers,
)
from engine.methods.structural.steps import WEIGHT_BINS, First, self_tuned_weights, weight_bins
from engine.partitions.map_equation import Modules
from engine.partitions.propagation import Propagated, StrongestEdges
from engine.runs.step import Facts, Step, Task, companion_task
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_vertex
from engine.steps.crossing import Crossing, Piece
from engine.steps.edges import EDGE_BYTES, SCORED, STORED_BYTES, EdgeFacts, Scores, read_edges
from engine.steps.ingest import Rows, Vectors
from engine.steps.knn import Knn, Order
from engine.steps.links import linked_rows, module_ranges, walk_cost
from engine.steps.metric import WEIGHTS
from engine.steps.point import ChosenPoint
from engine.storage.context import TaskCall
from engine.tiles import tile_bounds
from engine.units import CHUNK_ROWS

ROUNDING = 1e-6  # mean squared distance of unit rows of float16 from each other that rounding may leave
TUNED_RANGE = f"{__name__}:TunedRange"
FILES = ("scale", "place", "classes", "log_odds")  # of ``Lines``


@dataclass(frozen=True, kw_only=True, eq=False)
class Centre(Step[Facts]):
    """The mean of the unit vectors, as a metric that takes it away, because what all rows share tells none apart.

    Nothing is taken away where rows differ by no more than the rounding of stored vectors, because rounding is all that
    would be left.
    """

    kind, version, title = "self_trained.centre", 2, "centre"
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
        total, squares = np.zeros(dim), 0.0
        for begin, end in tile_bounds(0, num_rows, CHUNK_ROWS):
            block_nD = np.asarray(features_ND[begin:end], np.float64)
            total += block_nD.sum(axis=0)
            squares += float((block_nD**2).sum())
        mean = (total / num_rows).astype(np.float32)
        if squares / num_rows - float((mean.astype(np.float64) ** 2).sum()) < ROUNDING:
            mean[:] = 0
        tensors = metric.to_tensors(metric.Metric(mean, np.eye(dim, dtype=np.float32)))
        task.write_file(WEIGHTS, lambda stream: stream.write(save(tensors)))
        return {"shared": float(np.sqrt((mean.astype(np.float64) ** 2).sum()))}


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundStrangers(Step[Told]):
    """How similar strangers are to each row: ``scale``, ``place`` and ``classes`` (N,), and the table ``log_odds``.

    ``copies`` are rows that do not count. ``listed``: what was found of the graph that has them, too, which stands if
    there are none.
    """

    kind, version, title = "self_trained.strangers", 4, "strangers"
    facts = Told
    features: Vectors[Any]
    knn: Knn
    seed: int
    order: Order | None = None
    copies: Copies | None = None
    listed: FoundStrangers | None = None

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
        listed, copies = self.listed, self.copies
        if listed is not None and copies is not None and not task.facts(copies).copies:
            for name in FILES:
                task.write_npy(name, np.asarray(task.npy(listed, name)))
            return task.facts(listed)
        counted_N = None
        if copies is not None:
            counted_N = leaders_by_vertex(task, copies, self.order) == np.arange(self.knn.num_rows)
        graph = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        features_ND = task.array(self.features, "features")
        lines, told = find_strangers(features_ND, *graph, counted_N=counted_N, seed=self.seed, threads=task.threads)
        for name, values in zip(FILES, lines, strict=True):
            task.write_npy(name, values)
        return told


class ListedStrangers(FoundStrangers):
    """The same, of the graph as it was searched: they tell what is a copy."""

    title = "listed_strangers"


class NearStrangers(FoundStrangers):
    """The same, of the graph without near-copies."""

    title = "near_strangers"


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
        lines = Lines(*(np.asarray(task.npy(self.strangers, name)) for name in FILES))

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            return (1 / (1 + np.exp(-edge_log_odds(lines, sources, targets, similarities)))).astype(np.float32)

        return self.write(task, start, stop, give)


class Edges(CosineScores):
    """The cosine graph's edges, for the opinion by codelength."""

    title = "edges"


class EdgesCrossing(Crossing):
    """Those of them that end in another chunk than their owner's."""

    title = "edges_crossing"


class EvidenceCrossing(Crossing):
    """The edges with evidence that end in another chunk than their owner's."""

    title = "evidence_crossing"


class FirstPoint(ChosenPoint):
    """Where the graph is cut for the opinion by codelength."""

    title = "first_point"


class CodelengthForest(StrongestEdges):
    """The edges that decide the opinion by codelength."""

    title = "codelength_forest"


class ByCodelength(Propagated):
    """One opinion: the clusters in which a walk along the graph takes the fewest bits."""

    title = "by_codelength"


class ByEvidence(Modules):
    """The other opinion: the modules of the edges that strangers do not explain."""

    title = "by_evidence"


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreed(First):
    """The clusters that both opinions hold together: ``roots`` (N,), and ``opinions`` (2, N), the roots of either.

    Where the evidence is weak (``LEAST_TRUST``) and has fewer mates for a row than its list has places, there may be
    ``two_answers``: that by evidence, and the modules of the whole neighbour graph, its edges weighted by how near
    either end's seventh neighbour is (Zelnik-Manor and Perona, NIPS 2004). These are written as ``modules`` (N,). If
    neighbours are neighbours of each other, too (``TRANSITIVE``), the data have ``no_gap`` that evidence could show:
    clusters run into each other, or are larger than their strangers are many. Then the modules are both opinions;
    ``near`` (N,) holds the distances to the seventh neighbours, and ``inside`` the share of the edges within modules,
    by their weight.
    """

    kind, version, title = "self_trained.agreed", 7, "first"
    all_workers = True
    by_evidence: ByEvidence
    by_codelength: ByCodelength
    strangers: FoundStrangers
    edges: Edges
    crossing: EdgesCrossing
    knn: Knn
    seed: int

    def cost(self) -> Cost:
        """Project the search in the whole graph, as few data need it, and a few arrays of all rows."""
        n, searched = self.knn.num_rows, walk_cost(self.knn.num_rows, self.knn.k)
        return replace(
            searched, fixed_bytes=searched.fixed_bytes + n * 60, disk_bytes=n * 12, seconds=n / 5e6, companion_seconds=0
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Write where both agree."""
        evidence_N = np.asarray(task.npy(self.by_evidence, "roots"))
        codelength_N = np.asarray(task.npy(self.by_codelength, "roots"))
        found = task.facts(self.strangers)
        weak = found.rows > FEWEST_POINTS and found.trust < LEAST_TRUST and found.degree < self.knn.k
        no_gap = weak and found.transitivity > TRANSITIVE
        if weak:
            modules_N = self._self_tuned(task, no_gap)
            if no_gap:
                evidence_N = codelength_N = modules_N
        keys = evidence_N.astype(np.int64) * len(evidence_N) + codelength_N
        _, firsts, places = np.unique(keys, return_index=True, return_inverse=True)
        roots_N = firsts[places].astype(evidence_N.dtype)
        task.write_npy("roots", roots_N)
        task.write_npy("opinions", np.stack([evidence_N, codelength_N]))
        return {"clusters": len(firsts), "two_answers": bool(weak), "no_gap": bool(no_gap)}

    def _self_tuned(self, task: Task, no_gap: bool) -> np.ndarray:
        with module_ranges(task, TUNED_RANGE, self.knn.num_rows, 0) as ranges:
            roots_N = find_modules(ranges, self.seed).roots_N
            task.write_npy("modules", roots_N)
            if not no_gap:  # nobody asks how near edges of the modules are
                return roots_N
            counted = [ranges.begin(number, "count_edges") for number in range(len(ranges))]
            counts_B, inside_B = (
                np.sum(column, axis=0, dtype=np.float64) for column in zip(*ranges.wait(counted), strict=True)
            )
        shares_B = falling((inside_B / np.maximum(counts_B, 1))[::-1].copy(), np.maximum(counts_B, 1e-3)[::-1].copy())
        task.write_npy("near", near_distances(task, self.knn))
        task.write_npy("inside", shares_B[::-1].astype(np.float32))
        return roots_N


class TunedRange(ModuleRange):
    """A range of the whole neighbour graph, whose edges are weighted by how near either end's neighbours are."""

    def __init__(self, call: TaskCall, start: int, stop: int) -> None:
        step, self._task = companion_task(call, Agreed)
        self._edges, self._bounds = step.edges, (start, stop)
        self._near_N = near_distances(self._task, step.knn)
        rows = linked_rows(self._task, step.edges, step.crossing, start, stop, self._weigh)
        super().__init__(start, len(self._near_N), *rows, threads=self._task.threads)

    def _weigh(self, sources: np.ndarray, targets: np.ndarray, cosines: np.ndarray) -> Piece:
        return sources, targets, self_tuned_weights(self._near_N, sources, targets, cosines)

    def count_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Count the edges of own rows, and those of them within modules, by the bin of their weight."""
        roots_N = self.labels()
        counts_B, inside_B = np.zeros(WEIGHT_BINS, np.int64), np.zeros(WEIGHT_BINS, np.int64)
        for edges in read_edges(self._task.input(self._edges), *self._bounds, SCORED):
            a, b, weights = self._weigh(*edges)
            bins = weight_bins(weights)
            counts_B += np.bincount(bins, minlength=WEIGHT_BINS)
            inside_B += np.bincount(bins[roots_N[a] == roots_N[b]], minlength=WEIGHT_BINS)
        return counts_B, inside_B


def near_distances(task: Task, knn: Knn) -> np.ndarray:
    """How far each row's own scale reaches: the distance (N,) float32 to its neighbour of rank ``LOCAL_RANK``."""
    similarities_NK = task.array(knn, "similarities")
    return np.maximum(1 - np.asarray(similarities_NK[:, min(LOCAL_RANK, knn.k) - 1]), np.float32(1e-6))
