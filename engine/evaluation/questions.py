"""Choose the pairs of rows that a person should be asked about: those whose answers are worth most.

N rows, E edges, C clusters, F edges of a spanning forest, Q questions. Edges arrive in blocks, as ``Explainer`` takes
them: evidence is the probability that both ends are one identity.

A question is worth the pairs of rows at stake times the probability that the clusters have them wrong. To split asks
about the weakest place of a cluster: the edge of its maximum spanning tree that cuts off most pairs, each counted by
how little the edges across the cut believe in it. To merge asks about a cluster and its nearest other. A sample is a
pair drawn at random from the edges inside clusters: its answers tell how far scores can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.forest import MaximumForest
from engine.evaluation.explain import NOBODY, ScoredEdges

SPLIT, MERGE, SAMPLE = 0, 1, 2
# Where F is 0.6, a wrong pair that is parted adds 0.6 parts to it and a right pair that is joined 1.4.
SPLIT_WORTH, MERGE_WORTH = 0.6, 1.4
FEW_EDGES = 10  # so many edges, or one for each row of the smaller cluster if these are fewer, are expected of a merge
_MUST = np.float32(2.0)  # value of a pair that is known to be the same, above all evidence


@dataclass(frozen=True)
class QuestionTable:
    """Questions by descending worth; columns of length Q.

    ``kind``: int8, ``SPLIT``, ``MERGE`` or ``SAMPLE``. ``rows`` (Q, 2): the pair to ask about, the lower row first.
    ``said``: what the edges say, from 0 to 1, that it is the same; ``chance``: the same, corrected by answers.
    ``pairs``: pairs of rows at stake. ``worth``: the expected gain; 0 for samples, which come last.
    """

    kind: NDArray[np.int8]
    rows: NDArray[np.int64]
    said: NDArray[np.float64]
    chance: NDArray[np.float64]
    pairs: NDArray[np.int64]
    worth: NDArray[np.float64]


class Questioner:
    """Find questions from edges that arrive in blocks, in two passes; memory follows N.

    ``labels_N``: >= -1. ``confidence_N``: how sure each row's cluster is of it; a pair that asks whether two clusters
    are one is of sure rows, because a stray row says nothing of its cluster. ``nearest_C``: the label of each cluster's
    nearest other, -1 for none, by label (labels are 0 to C - 1). ``must`` and ``cannot`` (M, 2): pairs answered before,
    by row; they are not asked again, and no merge of two clusters is that hold such a pair apart. ``moves``: slope and
    offset, by kind of question, that correct the log-odds of chances. Give each block to ``look``, then each block to
    ``weigh``.
    """

    def __init__(
        self,
        labels_N: NDArray[np.int64],
        confidence_N: NDArray[np.float32],
        nearest_C: NDArray[np.int64],
        must: NDArray[Any],
        cannot: NDArray[Any],
        moves: Mapping[int, tuple[float, float]] | None = None,
    ) -> None:
        self._moves = moves or {}
        self._labels_N, self._nearest_C = labels_N.astype(np.int32), nearest_C.astype(np.int32)
        self._sizes_C = np.bincount(labels_N[labels_N >= 0], minlength=len(nearest_C))
        alone_N = self._sizes_C[np.maximum(labels_N, 0)] == 1
        self._typical_N = np.where(alone_N, np.float32(1), np.nan_to_num(confidence_N))
        self._must, self._cannot = np.asarray(must, np.int64), np.asarray(cannot, np.int64)
        self._forest = MaximumForest(len(labels_N))
        ends = self._must[self._inside(*self._must.T)].astype(np.int32)
        self._forest.add(ends[:, 0].copy(), ends[:, 1].copy(), np.full(len(ends), _MUST))
        self._tree: _Tree | None = None
        self._across_C = np.zeros((len(nearest_C), 2))  # sum of evidence, and number, of the edges to the nearest other
        self._best_C = np.full(len(nearest_C), -1.0, np.float32)
        self._best_rows_C = np.full((len(nearest_C), 2), NOBODY, np.int64)
        self._drawn: list[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.float32]]] = []

    def look(self, edges: ScoredEdges) -> None:
        """Add a block of edges, each undirected edge once overall."""
        inside_E = self._inside(edges.sources, edges.targets)
        self._forest.add(edges.sources[inside_E], edges.targets[inside_E], edges.evidence[inside_E])

    def weigh(self, edges: ScoredEdges, samples: int = 0) -> None:
        """Add a block a second time, after ``look`` has seen all blocks; keep up to ``samples`` pairs drawn so far."""
        if self._tree is None:
            self._tree = _Tree(len(self._labels_N), *self._forest.edges())
            ends = self._must[self._inside(*self._must.T)]
            self._tree.cross(ends[:, 0], ends[:, 1], np.ones(len(ends), np.float32))
        inside_E = self._inside(edges.sources, edges.targets)
        sources, targets, evidence = edges.sources[inside_E], edges.targets[inside_E], edges.evidence[inside_E]
        self._tree.cross(sources, targets, evidence)
        arguments = self._labels_N, self._nearest_C, self._typical_N, self._across_C, self._best_C, self._best_rows_C
        _weigh_across(edges.sources, edges.targets, edges.evidence, *arguments)
        if samples:
            self._draw(sources, targets, evidence, samples)

    def questions(self, most: int) -> QuestionTable:
        """Return up to ``most`` questions to split and merge, and the samples, by descending worth."""
        parts = [self._splits(), self._merges(), self._samples()]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        table = QuestionTable(*columns)
        order = np.lexsort((table.rows[:, 1], table.rows[:, 0], -table.worth))
        answered = np.concatenate([self._must, self._cannot])
        known = self._key(answered.min(axis=1), answered.max(axis=1))
        order = order[~np.isin(self._key(*table.rows[order].T), known)]
        sample = table.kind[order] == SAMPLE
        places = np.concatenate([order[~sample][:most], order[sample]])
        return QuestionTable(*(column[places] for column in columns))

    def _key(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
        return low * len(self._labels_N) + high

    def _inside(self, sources: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
        own = self._labels_N[sources]
        return (own == self._labels_N[targets]) & (own >= 0) & (sources != targets)

    def _splits(self) -> tuple[NDArray[Any], ...]:
        """Find the cut of greatest worth of each cluster."""
        if self._tree is None:
            return _no_questions()
        vertices, parents, values, chances, pairs = self._tree.cuts()
        free = values < _MUST
        vertices, parents, chances, pairs = vertices[free], parents[free], chances[free], pairs[free]
        corrected = self._correct(SPLIT, chances)
        worth = SPLIT_WORTH * (1 - corrected) * pairs
        order = np.lexsort((vertices, -worth, self._labels_N[vertices]))
        best = order[np.unique(self._labels_N[vertices][order], return_index=True)[1]]
        rows = np.sort(np.stack([vertices, parents], axis=1)[best], axis=1)
        kinds = np.full(len(best), SPLIT, np.int8)
        return kinds, rows, chances[best], corrected[best], pairs[best], worth[best]

    def _merges(self) -> tuple[NDArray[Any], ...]:
        """Ask of each cluster whether it belongs to its nearest other; of a pair of clusters once."""
        own = np.flatnonzero(self._best_C >= 0)
        other = self._nearest_C[own]
        smaller = np.minimum(self._sizes_C[own], self._sizes_C[other])
        sums, counts = self._across_C[own].T
        chances = sums / np.maximum(counts, np.minimum(smaller, FEW_EDGES))
        corrected = self._correct(MERGE, chances)
        pairs = self._sizes_C[own].astype(np.int64) * self._sizes_C[other]
        keys = np.minimum(own, other).astype(np.int64) * len(self._nearest_C) + np.maximum(own, other)
        first = np.unique(keys, return_index=True)[1]
        apart = self._labels_N[self._cannot].astype(np.int64)
        apart = apart.min(axis=1) * len(self._nearest_C) + apart.max(axis=1)
        first = first[~np.isin(keys[first], apart)]
        kinds = np.full(len(first), MERGE, np.int8)
        rows = np.sort(self._best_rows_C[own[first]], axis=1)
        return kinds, rows, chances[first], corrected[first], pairs[first], (MERGE_WORTH * corrected * pairs)[first]

    def _correct(self, kind: int, chances: NDArray[np.float64]) -> NDArray[np.float64]:
        slope, offset = self._moves.get(kind, (1.0, 0.0))
        return 1 / (1 + np.exp(-slope * chance_odds(chances) - offset))

    def _draw(self, sources: NDArray[Any], targets: NDArray[Any], evidence: NDArray[Any], samples: int) -> None:
        """Keep the edges of least hash: the same for any blocks."""
        pairs = np.sort(np.stack([sources, targets], axis=1).astype(np.int64), axis=1)
        self._drawn.append((_hash(pairs), pairs, evidence))
        hashes, pairs, evidence = (np.concatenate(column) for column in zip(*self._drawn, strict=True))
        order = np.argsort(hashes, kind="stable")[:samples]
        self._drawn = [(hashes[order], pairs[order], evidence[order])]

    def _samples(self) -> tuple[NDArray[Any], ...]:
        if not self._drawn:
            return _no_questions()
        _, pairs, evidence = self._drawn[0]
        count = len(pairs)
        ones, none = np.ones(count, np.int64), np.zeros(count)
        chances = evidence.astype(np.float64)
        return np.full(count, SAMPLE, np.int8), pairs, chances, chances, ones, none


def _no_questions() -> tuple[NDArray[Any], ...]:
    none = np.empty(0)
    return none.astype(np.int8), np.empty((0, 2), np.int64), none, none, none.astype(np.int64), none


def chance_odds(chances: Any) -> Any:
    """Compute the log-odds of chances, an array or a number; none is more certain than one in ten thousand."""
    held = np.clip(np.asarray(chances, np.float64), 1e-4, 1 - 1e-4)
    return np.log(held / (1 - held))


def _hash(pairs: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash pairs of rows (splitmix64): a fixed order that has nothing to do with rows or scores."""
    with np.errstate(over="ignore"):
        x = pairs[:, 0].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + pairs[:, 1].astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class _Tree:
    """A rooted forest, and for each of its edges the evidence across the cut that it makes."""

    def __init__(
        self, num: int, sources_F: NDArray[np.int32], targets_F: NDArray[np.int32], values_F: NDArray[np.float32]
    ) -> None:
        near = np.concatenate([sources_F, targets_F])
        order = np.argsort(near, kind="stable")
        starts = np.searchsorted(near[order], np.arange(num + 1))
        others, values = np.concatenate([targets_F, sources_F])[order], np.concatenate([values_F, values_F])[order]
        self._parents_N, self._order_N, self._depths_N, self._values_N = _root(starts, others, values)
        self._sums_N, self._counts_N = np.zeros(num), np.zeros(num, np.int64)

    def cross(self, sources_E: NDArray[Any], targets_E: NDArray[Any], evidence_E: NDArray[Any]) -> None:
        """Count edges for all the tree's edges on the way between their ends."""
        tree = self._parents_N, self._depths_N, self._sums_N, self._counts_N
        _cross(sources_E, targets_E, evidence_E, *tree)

    def cuts(self) -> tuple[NDArray[Any], ...]:
        """Give of each tree edge its lower and upper end, its value, the mean evidence across, and the pairs parted."""
        sizes, sums, counts, roots = _gather(self._parents_N, self._order_N, self._sums_N, self._counts_N)
        lower = np.flatnonzero(self._parents_N != np.arange(len(self._parents_N)))
        pairs = sizes[lower] * (sizes[roots[lower]] - sizes[lower])
        return lower, self._parents_N[lower], self._values_N[lower], sums[lower] / np.maximum(counts[lower], 1), pairs


@njit(nogil=True, cache=True)
def _root(starts, others, values):  # type: ignore[no-untyped-def]
    """Root each tree at its lowest vertex; give parents, an order from roots down, depths, values of the edges up."""
    num = len(starts) - 1
    parents, order = np.full(num, -1, np.int64), np.empty(num, np.int64)
    depths, up = np.zeros(num, np.int32), np.zeros(num, np.float32)
    filled = 0
    for root in range(num):
        if parents[root] >= 0:
            continue
        parents[root], order[filled] = root, root
        reached = filled
        filled += 1
        while reached < filled:
            vertex = order[reached]
            reached += 1
            for place in range(starts[vertex], starts[vertex + 1]):
                other = others[place]
                if parents[other] < 0:
                    parents[other], depths[other], up[other] = vertex, depths[vertex] + 1, values[place]
                    order[filled] = other
                    filled += 1
    return parents, order, depths, up


@njit(nogil=True, cache=True)
def _cross(sources, targets, evidence, parents, depths, sums, counts):  # type: ignore[no-untyped-def]
    for edge in range(len(evidence)):
        a, b, value = sources[edge], targets[edge], min(evidence[edge], np.float32(1.0))
        sums[a] += value
        sums[b] += value
        counts[a] += 1
        counts[b] += 1
        while a != b:
            if depths[a] >= depths[b]:
                a = parents[a]
            else:
                b = parents[b]
        sums[a] -= 2 * value
        counts[a] -= 2


@njit(nogil=True, cache=True)
def _gather(parents, order, sums, counts):  # type: ignore[no-untyped-def]
    """Add up what hangs below each vertex: rows, evidence and number of the edges that leave it; and its root."""
    sizes, below, numbers = np.ones(len(parents), np.int64), sums.copy(), counts.copy()
    roots = parents.copy()
    for place in range(len(order) - 1, -1, -1):
        vertex = order[place]
        if parents[vertex] != vertex:
            sizes[parents[vertex]] += sizes[vertex]
            below[parents[vertex]] += below[vertex]
            numbers[parents[vertex]] += numbers[vertex]
    for vertex in order:
        roots[vertex] = roots[parents[vertex]]
    return sizes, below, numbers, roots


@njit(nogil=True, cache=True)
def _weigh_across(sources, targets, evidence, labels, nearest, typical, across, best, best_rows):  # type: ignore[no-untyped-def]
    """Sum the edges between each cluster and its nearest other, and keep the best of them between sure rows."""
    for edge in range(len(evidence)):
        a, b = labels[sources[edge]], labels[targets[edge]]
        if a == b or a < 0 or b < 0:
            continue
        for own, other in ((a, b), (b, a)):
            if nearest[own] == other:
                across[own, 0] += evidence[edge]
                across[own, 1] += 1
                value = evidence[edge] * typical[sources[edge]] * typical[targets[edge]]
                if value > best[own]:
                    best[own] = value
                    best_rows[own, 0], best_rows[own, 1] = sources[edge], targets[edge]
