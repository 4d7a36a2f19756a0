"""Choose the threshold and size cap of propagation on plain similarities, without labels or a model.

Of the clusterings that ``propagate`` can give, the choice is the one that describes a random walk on the KNN graph in
the fewest bits, by the two-level map equation (Rosvall and Bergstrom, PNAS 2008) for an undirected graph.
Shape suffixes: N vertices, K neighbours, F edges of a forest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.forest import strongest_forest
from engine.clustering.label_free import (
    CODELENGTH_RISE,
    FEW_CLUSTERS,
    LARGE_CLUSTERS,
    LEAST_SCORE,
    NOISE_RATIO,
    NOISE_SHARES,
    STEP_BANDWIDTH,
    STEP_REACH,
)
from engine.clustering.propagation import propagate
from engine.clustering.union_find import Ids, id_dtype
from engine.errors import DataError
from engine.tiles import map_tiles, tile_bounds

NUM_THRESHOLDS = 128
SCORE_BINS = 4_096
TILE_ROWS = 1 << 15

Forest = tuple[Ids, Ids, NDArray[np.float32]]
Edges = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class OperatingPoint:
    """A setting of ``propagate``: least similarity, largest cluster, and why in one sentence."""

    min_score: float
    max_size: int
    reason: str


def choose_operating_point(
    neighbors_NK: NDArray[Any],
    similarities_NK: NDArray[Any],
    *,
    step: float = 0.05,
    threads: int = 1,
    chance: float | None = None,
) -> OperatingPoint:
    """Choose ``min_score`` and ``max_size`` for ``propagate`` over a KNN graph by least codelength.

    ``neighbors_NK``: vertex ids 0..N − 1, −1 where there is none; ``similarities_NK``: cosines, each row descending.
    Both may be memory-mapped; similarities other than float32 are copied. The walk steps from i to its neighbour j with
    probability ∝ exp(s_ij / 0.03), symmetrised.
    First comes the size cap of least codelength without a threshold. With that cap, the choice is the highest threshold
    whose codelength is within ``CODELENGTH_RISE`` of the least, because leaving outliers out gains few bits but helps
    users much. For few and large clusters, that threshold would cut the clusters' own edges, so the threshold of least
    codelength is taken. If ``chance`` (from ``chance_similarity``) is given, it is the threshold, and the size cap is
    the one of least codelength at it. The search takes some 25 to 40 passes over vertices and edges. Memory: about 12
    bytes per vertex for the forest, and 25 per vertex and thread. Neighbours past the twentieth hardly matter, so the
    first 20 columns of a large graph are enough. The result is equal for any number of threads. Raises ``DataError``
    for arrays that disagree.
    """
    if neighbors_NK.ndim != 2 or neighbors_NK.shape != similarities_NK.shape:
        raise DataError(
            "operating point: expected neighbours and similarities of one shape (N, K), "
            f"got {neighbors_NK.shape} and {similarities_NK.shape}"
        )
    neighbors_NK, similarities_NK = np.asarray(neighbors_NK), np.asarray(similarities_NK, np.float32)
    forest = _forest(neighbors_NK, similarities_NK, threads)
    num_vertices, weights_F = len(neighbors_NK), forest[2]
    if not len(weights_F):
        return OperatingPoint(0.0, 1, "no vertex has a neighbour")
    cluster, measure = _clusterings(neighbors_NK, similarities_NK, forest, step)
    lowest = float(weights_F[-1]) if chance is None else chance
    max_size, least_bits = _best_size(lambda size: measure(lowest, size), num_vertices, threads)
    if chance is not None:
        return OperatingPoint(
            chance,
            max_size,
            f"Few rows have a neighbour nearer than unrelated vectors come by chance, which takes a cosine of "
            f"{chance:.3f}: only such neighbours count, in clusters of at most {max_size} rows (more only where no "
            f"threshold separates them), which describe a walk on the neighbour graph in the fewest bits per step.",
        )
    if few := _few_large(similarities_NK, forest, cluster, measure, max_size, least_bits, threads):
        return few
    # Bisect the similarities of the forest, where every cut is one: past the best threshold codelength only rises.
    thresholds = weights_F[np.linspace(len(weights_F) - 1, 0, NUM_THRESHOLDS).astype(np.int64)]
    good, bad = 0, NUM_THRESHOLDS
    while bad - good > 1:
        middle = (good + bad) // 2
        if measure(float(thresholds[middle]), max_size) <= least_bits * (1 + CODELENGTH_RISE):
            good = middle
        else:
            bad = middle
    min_score = float(thresholds[good])
    return OperatingPoint(
        min_score,
        max_size,
        f"Clusters of at most {max_size} rows (more only where no threshold separates them) describe a walk on the "
        f"neighbour graph in the fewest bits per step ({least_bits:.3f}); {min_score:.3f} is the highest threshold "
        f"within {CODELENGTH_RISE:.0%} of that.",
    )


def choose_scored_point(
    neighbors_NK: NDArray[Any],
    similarities_NK: NDArray[Any],
    edges: Callable[[], Iterable[Edges]],
    *,
    step: float = 0.05,
    threads: int = 1,
) -> OperatingPoint:
    """Choose ``min_score`` and ``max_size`` for ``propagate`` over edges scored by a model of other data.

    ``edges()`` gives pieces of (sources, targets, scores), scores being probabilities, the same each time. Such a model
    ranks the edges well but may expect more true ones than there are, so that the size cap of least codelength (of the
    walk of ``choose_operating_point``) cuts clusters up. The threshold is then raised from 1/2 until no more edges are
    kept than the capped clusters hold. Memory and time as ``choose_operating_point``, and two passes over the edges.
    """
    neighbors_NK, similarities_NK = np.asarray(neighbors_NK), np.asarray(similarities_NK, np.float32)
    num_vertices = len(neighbors_NK)
    forests = [strongest_forest(*piece) for piece in edges() if len(piece[0])]
    if not forests:
        return OperatingPoint(LEAST_SCORE, 1, "no vertex has a neighbour")
    forest = _merge(forests)
    cluster, measure = _clusterings(neighbors_NK, similarities_NK, forest, step)
    max_size, least_bits = _best_size(lambda size: measure(0.0, size), num_vertices, threads)
    roots_N, held = cluster(0.0, max_size), 0
    counts = np.zeros(SCORE_BINS + 1, np.int64)
    for sources, targets, scores in edges():
        held += int((roots_N[sources] == roots_N[targets]).sum())
        counts += np.bincount((scores * SCORE_BINS).astype(np.int64), minlength=SCORE_BINS + 1)
    kept = np.cumsum(counts[::-1])[::-1]  # edges of at least each bin's least score
    min_score = max(LEAST_SCORE, int(np.argmax(kept <= held)) / SCORE_BINS) if (kept <= held).any() else 1.0
    return OperatingPoint(
        min_score,
        max_size,
        f"Of clusters with a size cap, those of at most {max_size} rows describe a walk on the neighbour graph in the "
        f"fewest bits per step ({least_bits:.3f}); they hold {held:,} edges, and "
        f"{kept[int(min_score * SCORE_BINS)]:,} reach a score of {min_score:.3f}.",
    )


def _clusterings(
    neighbors_NK: NDArray[Any], similarities_NK: NDArray[Any], forest: Forest, step: float
) -> tuple[Callable[[float, int], Ids], Callable[[float, int], float]]:
    """What clusters the forest at a threshold and size cap, and what tells the bits of a step of the walk then."""
    rates_N, flows_N = _walk(neighbors_NK, similarities_NK)

    def cluster(min_score: float, max_size: int) -> Ids:
        return propagate(len(neighbors_NK), *forest, min_score=min_score, max_size=max_size, step=step)

    def measure(min_score: float, max_size: int) -> float:
        return _codelength(neighbors_NK, similarities_NK, rates_N, flows_N, cluster(min_score, max_size))

    return cluster, measure


def _best_size(measure: Callable[[int], float], num_vertices: int, threads: int) -> tuple[int, float]:
    """Find the size cap of fewest bits by ``measure``, and the bits: tries powers of two, then quarters between."""
    sizes = [2**power for power in range(1, num_vertices.bit_length() + 1)]
    bits = dict(zip(sizes, map_tiles(measure, sizes, threads), strict=True))
    best = min(sizes, key=lambda size: bits[size])
    sizes = sorted({round(best * 2 ** (quarter / 4)) for quarter in range(-3, 4)} - set(sizes))
    bits.update(zip(sizes, map_tiles(measure, sizes, threads), strict=True))
    max_size = min(sorted(bits), key=lambda size: bits[size])
    return max_size, bits[max_size]


def _few_large(
    similarities_NK: NDArray[Any],
    forest: Forest,
    cluster: Callable[[float, int], Ids],
    measure: Callable[[float, int], float],
    max_size: int,
    bits: float,
    threads: int,
) -> OperatingPoint | None:
    """Search thresholds without a size cap, too, if the best size cap gives few and large clusters; else ``None``.

    Few and large clusters are joined by the forest's last few edges, so each of these is tried as the first edge that
    the threshold leaves out. Also returns ``None`` if the graph holds noise: a tenth of the rows have nearest
    neighbours half as similar as another tenth's.
    """
    weights_F, num_vertices = forest[2], len(similarities_NK)
    num_clusters = np.count_nonzero(np.bincount(cluster(float(weights_F[-1]), max_size)))
    if num_clusters >= FEW_CLUSTERS or num_vertices < LARGE_CLUSTERS * num_clusters:
        return None
    least, most = np.quantile(similarities_NK[:, 0], NOISE_SHARES)
    if least < most / NOISE_RATIO:
        return None
    thresholds = np.unique(weights_F[-2 * FEW_CLUSTERS :])
    found = map_tiles(lambda least: measure(float(least), num_vertices), thresholds.tolist(), threads)
    place = int(np.argmin(found))
    if found[place] < bits:
        min_score, max_size, bits = float(thresholds[place]), num_vertices, found[place]
    else:
        min_score = float(weights_F[-1])
    return OperatingPoint(
        min_score,
        max_size,
        f"Few and large clusters, of edges of {min_score:.3f} and more and of at most {max_size} rows, describe a walk "
        f"on the neighbour graph in the fewest bits per step ({bits:.3f}).",
    )


def _forest(neighbors_NK: NDArray[Any], similarities_NK: NDArray[Any], threads: int) -> Forest:
    """Reduce the KNN graph to a maximum spanning forest, by descending similarity, tile by tile."""
    dtype = id_dtype(len(neighbors_NK))

    def reduce_tile(tile: tuple[int, int]) -> Forest:
        neighbors = neighbors_NK[slice(*tile)]
        row, column = np.nonzero(neighbors >= 0)
        similarities = similarities_NK[slice(*tile)][row, column]
        return strongest_forest((row + tile[0]).astype(dtype), neighbors[row, column].astype(dtype), similarities)

    forests = map_tiles(reduce_tile, tile_bounds(0, len(neighbors_NK), TILE_ROWS), threads)
    while len(forests) > 1:
        groups = [forests[start : start + 8] for start in range(0, len(forests), 8)]
        forests = map_tiles(_merge, groups, threads)
    return forests[0] if forests else (np.empty(0, dtype), np.empty(0, dtype), np.empty(0, np.float32))


def _merge(forests: list[Forest]) -> Forest:
    sources, targets, weights = (np.concatenate(parts) for parts in zip(*forests, strict=True))
    return strongest_forest(sources, targets, weights)


@njit(nogil=True, cache=True)
def _walk(neighbors, similarities):  # type: ignore[no-untyped-def]
    """Give each row's normalised step rates, halved so that all flows sum to 1, and each vertex's flow."""
    num_vertices, num_neighbors = neighbors.shape
    rates = np.zeros(num_vertices, np.float32)
    flows = np.zeros(num_vertices)
    for i in range(num_vertices):
        total = 0.0
        for k in range(num_neighbors):
            if neighbors[i, k] < 0 or similarities[i, 0] - similarities[i, k] > STEP_REACH:
                break
            total += np.exp((similarities[i, k] - similarities[i, 0]) / STEP_BANDWIDTH)
        if total == 0:
            continue
        rates[i] = 0.5 / (total * num_vertices)
        for k in range(num_neighbors):
            if neighbors[i, k] < 0 or similarities[i, 0] - similarities[i, k] > STEP_REACH:
                break
            flow = rates[i] * np.exp((similarities[i, k] - similarities[i, 0]) / STEP_BANDWIDTH)
            flows[i] += flow
            flows[neighbors[i, k]] += flow
    return rates, flows


@njit(nogil=True, cache=True)
def _codelength(neighbors, similarities, rates, flows, roots):  # type: ignore[no-untyped-def]
    """Give the two-level map equation of clusters named by a member vertex, in bits per step."""
    num_vertices, num_neighbors = neighbors.shape
    exits = np.zeros(num_vertices)
    inside = np.zeros(num_vertices)
    for i in range(num_vertices):
        inside[roots[i]] += flows[i]
        if rates[i] == 0:
            continue
        for k in range(num_neighbors):
            if neighbors[i, k] < 0 or similarities[i, 0] - similarities[i, k] > STEP_REACH:
                break
            other = roots[neighbors[i, k]]
            if other != roots[i]:
                flow = rates[i] * np.exp((similarities[i, k] - similarities[i, 0]) / STEP_BANDWIDTH)
                exits[roots[i]] += flow
                exits[other] += flow
    bits = _entropy_term(exits.sum())
    for i in range(num_vertices):
        bits += _entropy_term(exits[i] + inside[i]) - 2 * _entropy_term(exits[i]) - _entropy_term(flows[i])
    return bits


@njit(nogil=True, cache=True)
def _entropy_term(share):  # type: ignore[no-untyped-def]
    return share * np.log2(share) if share > 0 else 0.0
