"""Choose the threshold and size cap of propagation on plain similarities, without labels or a model.

Of the clusterings that ``propagate`` can give, the choice is the one that describes a random walk on the KNN graph in
the fewest bits, by the two-level map equation (Rosvall and Bergstrom, PNAS 2008) for an undirected graph. The walk and
the graph's forest are gathered in blocks; the choice itself reads the forest alone (``engine.clustering.merge_tree``).
Shape suffixes: N vertices, n rows of a block, K neighbours, E edges, F edges of a forest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.clustering.forest import block_forest, strongest_forest
from engine.clustering.label_free import (
    CODELENGTH_RISE,
    FEW_CLUSTERS,
    LARGE_CLUSTERS,
    LEAST_SCORE,
    NOISE_RATIO,
    NOISE_SHARES,
)
from engine.clustering.merge_tree import Cuts, Forest, Sums, Walk, add_sums, cut, merge_tree, parted, walk_block
from engine.clustering.union_find import id_dtype
from engine.errors import DataError
from engine.tiles import map_tiles, tile_bounds

NUM_THRESHOLDS = 128
SCORE_BINS = 4_096
TILE_ROWS = 1 << 15

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
    probability ∝ exp(s_ij / 0.03), symmetrised. The rule is that of ``choose_cut``. Memory: about 150 bytes per vertex.
    The result is equal for any number of threads. Raises ``DataError`` for arrays that disagree.
    """
    if neighbors_NK.ndim != 2 or neighbors_NK.shape != similarities_NK.shape:
        raise DataError(
            "operating point: expected neighbours and similarities of one shape (N, K), "
            f"got {neighbors_NK.shape} and {similarities_NK.shape}"
        )
    neighbors_NK, similarities_NK = np.asarray(neighbors_NK), np.asarray(similarities_NK, np.float32)
    tiles = tile_bounds(0, len(neighbors_NK), TILE_ROWS)
    forests = map_tiles(
        lambda tile: graph_forest(neighbors_NK[slice(*tile)], similarities_NK[slice(*tile)], *tile, len(neighbors_NK)),
        tiles,
        threads,
    )
    walk = _walk_along(join_forests(forests), neighbors_NK, similarities_NK, threads)
    return choose_cut(walk, lambda: similarities_NK[:, 0], step=step, chance=chance)


def choose_scored_point(
    neighbors_NK: NDArray[Any],
    similarities_NK: NDArray[Any],
    edges: Callable[[], Iterable[Edges]],
    *,
    step: float = 0.05,
    threads: int = 1,
) -> OperatingPoint:
    """Choose ``min_score`` and ``max_size`` for ``propagate`` over edges scored by a model of other data.

    ``edges()`` gives pieces of (sources, targets, scores), scores being probabilities, the same each time. The rule is
    that of ``choose_scored_cut``. Memory and time as ``choose_operating_point``, and two passes over the edges.
    """
    neighbors_NK, similarities_NK = np.asarray(neighbors_NK), np.asarray(similarities_NK, np.float32)
    forest = join_forests([strongest_forest(*piece) for piece in edges() if len(piece[0])])
    walk = _walk_along(forest, neighbors_NK, similarities_NK, threads)
    tree, held_F, counts = merge_tree(forest, len(neighbors_NK)), np.zeros(len(forest[2]), np.int64), count_scores([])
    for sources, targets, scores in edges():
        add_sums(held_F, *parted(sources, targets, tree))
        counts += count_scores(scores)
    return choose_scored_cut(walk, held_F, counts, step=step)


def choose_cut(
    walk: Walk, first_similarities: Callable[[], NDArray[np.float32]], *, step: float, chance: float | None
) -> OperatingPoint:
    """Choose where to cut the forest of a KNN graph, by the walk along it.

    First comes the size cap of least codelength without a threshold. With that cap, the choice is the highest threshold
    whose codelength is within ``CODELENGTH_RISE`` of the least, because leaving outliers out gains few bits but helps
    users much. For few and large clusters, that threshold would cut the clusters' own edges, so the threshold of least
    codelength is taken. If ``chance`` (from ``chance_similarity``) is given, it is the threshold, and the size cap is
    the one of least codelength at it. ``first_similarities``: of each row to its nearest neighbour. The search takes
    some ten passes over the forest.
    """
    weights_F, num_vertices = walk.forest[2], len(walk.flows_N)
    if not len(weights_F):
        return OperatingPoint(0.0, 1, "no vertex has a neighbour")

    def bits(min_score: float, max_size: int) -> float:
        return float(cut(walk, min_score, [max_size], step).bits[0])

    lowest = float(weights_F[-1]) if chance is None else chance
    max_size, least_bits = _best_size(lambda sizes: cut(walk, lowest, sizes, step), num_vertices)
    if chance is not None:
        return OperatingPoint(
            chance,
            max_size,
            f"Few rows have a neighbour nearer than unrelated vectors come by chance, which takes a cosine of "
            f"{chance:.3f}: only such neighbours count, in clusters of at most {max_size} rows (more only where no "
            f"threshold separates them), which describe a walk on the neighbour graph in the fewest bits per step.",
        )
    if few := _few_large(walk, first_similarities, max_size, least_bits, step):
        return few
    # Bisect the similarities of the forest, where every cut is one: past the best threshold codelength only rises.
    thresholds = weights_F[np.linspace(len(weights_F) - 1, 0, NUM_THRESHOLDS).astype(np.int64)]
    good, bad = 0, NUM_THRESHOLDS
    while bad - good > 1:
        middle = (good + bad) // 2
        if bits(float(thresholds[middle]), max_size) <= least_bits * (1 + CODELENGTH_RISE):
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


def choose_scored_cut(
    walk: Walk, held_F: NDArray[np.int64], counts: NDArray[np.int64], *, step: float
) -> OperatingPoint:
    """Choose where to cut the forest of scored edges, by the walk along the KNN graph.

    A model of other data ranks the edges well but may expect more true ones than there are, so that the size cap of
    least codelength cuts clusters up. The threshold is then raised from 1/2 until no more edges are kept than the
    capped clusters hold. ``held_F``: the scored edges that part at each edge of the forest; ``counts``: the edges by
    ``count_scores``.
    """
    if not len(walk.forest[2]):
        return OperatingPoint(LEAST_SCORE, 1, "no vertex has a neighbour")
    max_size, least_bits = _best_size(lambda sizes: cut(walk, 0.0, sizes, step), len(walk.flows_N))
    held = int(cut(walk._replace(inside_F=held_F), 0.0, [max_size], step).inside[0])
    kept = np.cumsum(counts[::-1])[::-1]  # edges of at least each bin's least score
    min_score = max(LEAST_SCORE, int(np.argmax(kept <= held)) / SCORE_BINS) if (kept <= held).any() else 1.0
    return OperatingPoint(
        min_score,
        max_size,
        f"Of clusters with a size cap, those of at most {max_size} rows describe a walk on the neighbour graph in the "
        f"fewest bits per step ({least_bits:.3f}); they hold {held:,} edges, and "
        f"{kept[int(min_score * SCORE_BINS)]:,} reach a score of {min_score:.3f}.",
    )


def count_scores(scores_E: Any) -> NDArray[np.int64]:
    """Count probabilities by ``SCORE_BINS`` equal bins, and those of 1 in one more."""
    return np.bincount((np.asarray(scores_E) * SCORE_BINS).astype(np.int64), minlength=SCORE_BINS + 1)


def graph_forest(
    neighbors_nK: NDArray[Any], similarities_nK: NDArray[np.float32], start: int, stop: int, num_vertices: int
) -> Forest:
    """Reduce what rows ``start..stop`` of a KNN graph list to a maximum spanning forest, by descending similarity."""
    dtype = id_dtype(num_vertices)
    row, column = np.nonzero(neighbors_nK >= 0)
    sources, targets = (row + start).astype(dtype), neighbors_nK[row, column].astype(dtype)
    return block_forest(start, stop, sources, targets, similarities_nK[row, column])


def join_forests(forests: list[Forest]) -> Forest:
    """Reduce forests of blocks, in the order of the blocks, to one."""
    empty = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32)
    sources, targets, weights = (np.concatenate(parts) for parts in zip(empty, *forests, strict=True))
    return strongest_forest(sources, targets, weights)


def join_walk(forest: Forest, num_vertices: int, through: Iterable[Sums], parting: Iterable[Sums]) -> Walk:
    """Add up the flows of blocks, in any order."""
    walk = Walk(forest, np.zeros(num_vertices, np.int64), np.zeros(len(forest[2]), np.int64))
    for totals, parts in ((walk.flows_N, through), (walk.inside_F, parting)):
        for keys, sums in parts:
            add_sums(totals, keys, sums)
    return walk


def _walk_along(forest: Forest, neighbors_NK: NDArray[Any], similarities_NK: NDArray[np.float32], threads: int) -> Walk:
    tree = merge_tree(forest, len(neighbors_NK))
    found = map_tiles(
        lambda tile: walk_block(neighbors_NK[slice(*tile)], similarities_NK[slice(*tile)], tile[0], tree),
        tile_bounds(0, len(neighbors_NK), TILE_ROWS),
        threads,
    )
    return join_walk(forest, len(neighbors_NK), (flows for flows, _ in found), (parting for _, parting in found))


def _best_size(measure: Callable[[list[int]], Cuts], num_vertices: int) -> tuple[int, float]:
    """Find the size cap of fewest bits by ``measure``, and the bits: tries powers of two, then quarters between."""
    sizes = [2**power for power in range(1, num_vertices.bit_length() + 1)]
    bits = dict(zip(sizes, measure(sizes).bits.tolist(), strict=True))
    best = min(sizes, key=lambda size: bits[size])
    sizes = sorted({round(best * 2 ** (quarter / 4)) for quarter in range(-3, 4)} - set(sizes))
    bits.update(zip(sizes, measure(sizes).bits.tolist(), strict=True))
    max_size = min(sorted(bits), key=lambda size: bits[size])
    return max_size, bits[max_size]


def _few_large(
    walk: Walk, first_similarities: Callable[[], NDArray[np.float32]], max_size: int, bits: float, step: float
) -> OperatingPoint | None:
    """Search thresholds without a size cap, too, if the best size cap gives few and large clusters; else ``None``.

    Few and large clusters are joined by the forest's last few edges, so each of these is tried as the first edge that
    the threshold leaves out. Also returns ``None`` if the graph holds noise: a tenth of the rows have nearest
    neighbours half as similar as another tenth's.
    """
    weights_F, num_vertices = walk.forest[2], len(walk.flows_N)
    num_clusters = int(cut(walk, float(weights_F[-1]), [max_size], step).clusters[0])
    if num_clusters >= FEW_CLUSTERS or num_vertices < LARGE_CLUSTERS * num_clusters:
        return None
    least, most = np.quantile(first_similarities(), NOISE_SHARES)
    if least < most / NOISE_RATIO:
        return None
    thresholds = np.unique(weights_F[-2 * FEW_CLUSTERS :])
    found = [float(cut(walk, least, [num_vertices], step).bits[0]) for least in thresholds.tolist()]
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
