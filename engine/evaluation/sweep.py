"""The clusters of plain thresholding at each of many thresholds, from one pass over the edges.

E edges, N vertices, T thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.forest import MaximumForest
from engine.clustering.union_find import Ids, find_root
from engine.errors import ConfigError, DataError
from engine.evaluation.metrics import Labels, PairCounts, dense_labels, f_from_counts


@dataclass(frozen=True)
class SweepRow:
    """The components of the edges of value >= ``threshold``; pairwise scores where identities are known."""

    threshold: float
    num_clusters: int
    num_singletons: int
    largest: int
    pairwise_precision: float | None = None
    pairwise_recall: float | None = None
    pairwise_f: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields by name, in their order."""
        return asdict(self)


class ThresholdSweep:
    """Sweep a threshold over edges that arrive in blocks; memory follows N, not the number of edges.

    ``thresholds_T``: strictly descending; compared as float32, an edge of exactly the threshold joins.
    ``identities_N``: optional truth, >= -1, which adds exact pairwise scores; rows of -1, unknown, join but are not
    scored. ``held_out_N``: optional booleans; scores then cover the pairs that touch a held-out row, in clusters of all
    rows. ``num_dropped``: vertices without any edge that count for no cluster. The result does not depend on the order
    or blocks of the edges. Peak about 80 bytes per vertex.
    """

    def __init__(
        self,
        num_vertices: int,
        thresholds_T: NDArray[np.floating[Any]] | list[float],
        identities_N: Labels | None = None,
        held_out_N: NDArray[np.bool_] | None = None,
        num_dropped: int = 0,
    ) -> None:
        self._thresholds_T = np.asarray(thresholds_T, np.float32)
        if len(self._thresholds_T) == 0 or not bool(np.all(np.diff(self._thresholds_T) < 0)):
            raise ConfigError(f"threshold sweep: expected descending thresholds, got {list(thresholds_T)}")
        for name, array in (("identities", identities_N), ("held-out flags", held_out_N)):
            if array is not None and len(array) != num_vertices:
                raise DataError(f"threshold sweep: {len(array)} {name} for {num_vertices} vertices")
        self._forest = MaximumForest(num_vertices)
        self._identities_N = identities_N
        self._held_out_N = held_out_N
        self._num_dropped = num_dropped

    def add(self, sources_E: NDArray[np.int32], targets_E: NDArray[np.int32], values_E: NDArray[np.float32]) -> None:
        """Add a block of undirected edges; errors as in ``MaximumForest.add``."""
        self._forest.add(sources_E, targets_E, values_E)

    def rows(self) -> list[SweepRow]:
        """Return one row per threshold, in the order given."""
        sources_E, targets_E, values_E = self._forest.edges()
        starts = [0, *np.searchsorted(-values_E, -self._thresholds_T, side="right")]

        def edges_at(level: int) -> list[tuple[Ids, Ids]]:
            edges = slice(starts[level], starts[level + 1])
            return [(sources_E[edges], targets_E[edges])]

        return sweep_levels(
            self._forest.num_vertices,
            self._thresholds_T,
            edges_at,
            self._identities_N,
            self._held_out_N,
            self._num_dropped,
        )


def level_of(values_E: NDArray[np.float32], thresholds_T: NDArray[np.floating[Any]] | list[float]) -> NDArray[np.int64]:
    """Give the place of the highest of the descending thresholds that each value reaches; T if it reaches none."""
    return np.searchsorted(-np.asarray(thresholds_T, np.float32), -values_E, side="left")


def sweep_levels(
    num_vertices: int,
    thresholds_T: NDArray[np.floating[Any]] | list[float],
    edges_at: Callable[[int], Iterable[tuple[Ids, Ids]]],
    identities_N: Labels | None = None,
    held_out_N: NDArray[np.bool_] | None = None,
    num_dropped: int = 0,
) -> list[SweepRow]:
    """Sweep thresholds over edges that are sorted by ``level_of`` their values; ``edges_at`` gives a level's blocks.

    Arguments and result as those of ``ThresholdSweep``. Forests of blocks of the edges may stand for them. Memory: 8
    bytes per vertex, and with identities 20 more.
    """
    parent_N = np.arange(num_vertices, dtype=np.int32)
    sizes_N = np.ones(num_vertices, np.int32)
    truth = None if identities_N is None else _pair_counters(identities_N, held_out_N)
    counted = num_vertices - num_dropped
    tally, rows = np.array([counted, counted, min(counted, 1)], np.int64), []
    for level, threshold in enumerate(np.asarray(thresholds_T, np.float32)):
        for sources_E, targets_E in edges_at(level):
            _join(sources_E, targets_E, parent_N, sizes_N, tally)
        scores: tuple[float, float, float] | tuple[()] = ()
        if truth is not None:
            _flatten(parent_N)
            counts = truth[0].count(parent_N)
            if len(truth) > 1:
                counts -= truth[1].count(parent_N)
            scores = (counts.precision, counts.recall, f_from_counts(counts))
        rows.append(SweepRow(_decimal(threshold), *(int(count) for count in tally), *scores))
    return rows


def _pair_counters(identities_N: Labels, held_out_N: NDArray[np.bool_] | None) -> list[_PairCounter]:
    """Make counters of known rows and, with held-out rows, of the other rows, whose pairs are subtracted."""
    known = np.flatnonzero(np.asarray(identities_N) != -1).astype(np.int32)
    parts = [known] if held_out_N is None else [known, known[~held_out_N[known]]]
    return [_PairCounter(identities_N, rows) for rows in parts]


def threshold_sweep(
    num_vertices: int,
    sources_E: NDArray[np.int32],
    targets_E: NDArray[np.int32],
    values_E: NDArray[np.float32],
    thresholds_T: NDArray[np.floating[Any]] | list[float],
    identities_N: Labels | None = None,
    held_out_N: NDArray[np.bool_] | None = None,
) -> list[SweepRow]:
    """Sweep a threshold over edges held in memory; arguments, result and errors as in ``ThresholdSweep``."""
    sweep = ThresholdSweep(num_vertices, thresholds_T, identities_N, held_out_N)
    sweep.add(sources_E, targets_E, values_E)
    return sweep.rows()


class _PairCounter:
    """Counts pairs among some rows for one clustering after another: O(rows) each, no sort."""

    def __init__(self, identities_N: Labels, rows_M: NDArray[np.int32]) -> None:
        truth_M, num = dense_labels(np.asarray(identities_N)[rows_M], "identities")
        sizes_I = np.bincount(truth_M, minlength=num)
        self._rows_M = rows_M[np.argsort(truth_M, kind="stable")]
        self._offsets_I = np.concatenate(([0], np.cumsum(sizes_I)))
        self._true_pairs = int(np.sum(sizes_I * (sizes_I - 1) // 2))

    def count(self, roots_N: NDArray[np.int32]) -> PairCounts:
        predicted, both = _count_pairs(self._rows_M, self._offsets_I, roots_N)
        return PairCounts(self._true_pairs, int(predicted), int(both))


def _decimal(threshold: np.float32) -> float:
    """Give the shortest decimal that equals this float32: 0.7, not 0.699999988."""
    return float(str(threshold))


@njit(nogil=True, cache=True)
def _join(
    sources_E: NDArray[np.int32],
    targets_E: NDArray[np.int32],
    parent_N: NDArray[np.int32],
    sizes_N: NDArray[np.int32],
    tally: NDArray[np.int64],
) -> None:
    """Union edges and update ``tally``: clusters, singletons, largest cluster."""
    for edge in range(len(sources_E)):
        a, b = find_root(parent_N, sources_E[edge]), find_root(parent_N, targets_E[edge])
        if a == b:
            continue
        a, b = min(a, b), max(a, b)
        tally[0] -= 1
        tally[1] -= int(sizes_N[a] == 1) + int(sizes_N[b] == 1)
        parent_N[b] = a
        sizes_N[a] += sizes_N[b]
        tally[2] = max(tally[2], sizes_N[a])


@njit(nogil=True, cache=True)
def _flatten(parent_N: NDArray[np.int32]) -> None:
    for vertex in range(len(parent_N)):
        parent_N[vertex] = parent_N[parent_N[vertex]]  # roots are lower ids, so the parent is flat already


@njit(nogil=True, cache=True)
def _count_pairs(
    rows_M: NDArray[np.int32], offsets_I: NDArray[np.int64], roots_N: NDArray[np.int32]
) -> tuple[int, int]:
    """Count pairs that share a root, and pairs that share root and identity; rows are sorted by identity."""
    cell_N = np.zeros(len(roots_N), np.int32)
    both = 0
    for identity in range(len(offsets_I) - 1):
        for position in range(offsets_I[identity], offsets_I[identity + 1]):
            root = roots_N[rows_M[position]]
            both += cell_N[root]
            cell_N[root] += 1
        for position in range(offsets_I[identity], offsets_I[identity + 1]):
            cell_N[roots_N[rows_M[position]]] = 0
    predicted = 0
    for row in rows_M:
        predicted += cell_N[roots_N[row]]
        cell_N[roots_N[row]] += 1
    return predicted, both
