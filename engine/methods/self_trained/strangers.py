"""How likely each edge is true, read from how similar strangers are to its two ends.

The similarities of a row to strangers, in descending order, lie on a line over the logarithm of their rank, because
the spacings of an exponential tail are independent (Rényi, 1953). Behind a row's mates, which are the neighbours above
a level t, the line is fitted: at rank r beyond the mates a stranger's similarity is ``place - scale ln r``. So
exp(-(s - place) / scale) strangers are expected above a similarity s. An edge's evidence is the lower of what its two
ends make of it. How often strangers alone give so much evidence is known, so the share of edges that strangers
explain is known, too: the local false-discovery rate (Efron, 2008), taken apart by how many mates a row has.
Legend: N rows, K neighbours, S rows of the sample, P points of a rank curve, T levels, E edges, C classes, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from engine.graph.adjacency import undirected_edges
from engine.random_streams import STRANGERS, stream
from engine.tiles import map_tiles, single_threaded_kernels, tile_bounds
from engine.units import CHUNK_ROWS, NO_SIMILARITY

Array = np.ndarray[Any, Any]

SAMPLE_ROWS = 2_048  # that stand for all rows: their curves, and neighbours beyond K
BACKGROUND_RANKS = 32  # that a line is fitted to, behind no mates; as many more as there are mates
MOST_EVIDENCE = 50.0  # of a row that counts for a level
NUM_LEVELS, NUM_FINER = 48, 17
BIN, LEAST_BIN, NUM_BINS = 0.25, -3.0, 252  # of evidence
WALKS = 6  # two steps long, from each row of the sample
FEWEST_POINTS, FEW_LISTED = 6, 24
SIMULATED = 200  # curves of strangers alone
TILE_ROWS = 256


class Lines(NamedTuple):
    """What the strangers of each row look like, and what an edge's evidence says.

    ``scale_N`` and ``place_N``: float32, of the rows' lines. ``classes_N``: octave of the number of mates, uint8.
    ``log_odds_CB``: that an edge is true, by the class of an end and the bin of its evidence, float32.
    """

    scale_N: Array
    place_N: Array
    classes_N: Array
    log_odds_CB: Array


@dataclass(frozen=True)
class Told:
    """What people may want to know of the strangers.

    ``rows``: how many count. ``level``: similarity above which neighbours are taken for mates; a row has ``degree`` of
    them on average. ``trust``: mean evidence times transitivity at that level, 0 where nothing is more than chance.
    ``expected``: number of true edges. ``transitivity``: share of two-step walks that end among the mates of their
    first row, at the level where a row has as many mates as its list has places.
    """

    rows: int
    level: float
    trust: float
    degree: float
    expected: float
    transitivity: float


def find_strangers(
    features_ND: Array,
    neighbors_NK: Array,
    similarities_NK: Array,
    *,
    counted_N: Array | None = None,
    seed: int = 0,
    threads: int = 1,
) -> tuple[Lines, Told]:
    """Find the level, the lines of all rows and the log-odds of all evidence.

    ``features_ND``: unit rows; ``neighbors_NK`` and ``similarities_NK``: their KNN graph, each row descending, -1 where
    there is none; ``counted_N`` (N,) bool: the rows that are no copies, which alone count. The level is that at which
    "more similar than t" is most nearly an equivalence relation that chance does not explain: it has the largest mean
    of evidence times transitivity. Memory: 20 bytes a row, 64 MB, and the edges of a chunk. Equal for any number of
    threads.
    """
    rows = np.arange(len(neighbors_NK)) if counted_N is None else np.flatnonzero(counted_N)
    num_rows = len(rows)
    sample_S = np.sort(rows[stream(seed, STRANGERS).permutation(num_rows)[:SAMPLE_ROWS]])
    sample_SD = np.asarray(features_ND[sample_S], np.float32)
    products_SS = _products(features_ND, sample_S, sample_SD, threads)
    groups_S = np.unique(sample_SD, axis=0, return_inverse=True)[1].ravel()
    products_SS[groups_S[:, None] == groups_S[None, :]] = NO_SIMILARITY  # a row itself, and its copies
    nearest_SS = np.argsort(-products_SS, axis=1, kind="stable")
    sorted_SS = np.take_along_axis(products_SS, nearest_SS, axis=1)
    nearest_SS = nearest_SS.astype(np.int16)
    ranks_P, curves_SP = _curves(np.asarray(similarities_NK[sample_S]), sorted_SS, num_rows)
    chance_P = _chance(ranks_P)
    walks = stream(seed, STRANGERS, 1).random((len(sample_S), WALKS, 4))

    def stays(level: float) -> Array:
        sample = sample_S, products_SS, nearest_SS
        return _transitivity(neighbors_NK, similarities_NK, *sample, np.float32(level), walks, num_rows)

    def worth(levels: Array) -> Array:
        def one(level: float) -> float:
            evidence_S, stays_S = _evidence_of_rows(ranks_P, curves_SP, np.float32(level), chance_P), stays(level)
            if np.isfinite(evidence_S).mean() <= 0.5:
                return -1.0
            return float((np.where(np.isfinite(evidence_S), evidence_S, 0) * np.maximum(2 * stays_S - 1, 0)).mean())

        return np.array(map_tiles(one, levels.tolist(), threads))

    order, shares = _pooled(ranks_P, curves_SP)
    degrees_T = np.geomspace(max(1e-3, 4 / num_rows), shares[-1] * 0.999, NUM_LEVELS)
    by_degree_T = order[np.minimum(np.searchsorted(shares, degrees_T), len(order) - 1)]
    even_T = np.linspace(order[0], by_degree_T[-1], NUM_LEVELS, dtype=np.float32)  # a gap has levels in it, but no rows
    levels_T = np.unique(np.concatenate([by_degree_T, even_T]))
    best = int(np.argmax(worth(levels_T)))
    around = levels_T[max(best - 1, 0)], levels_T[min(best + 1, len(levels_T) - 1)]
    least, most = (max(_degree(order, shares, level), 1e-3) for level in around)
    degrees_T = np.geomspace(least, most, NUM_FINER)
    places_T = np.minimum(np.searchsorted(shares, degrees_T), len(order) - 2)
    levels_T = np.append((order[places_T] + order[places_T + 1]) / 2, levels_T[best])
    found_T = worth(levels_T)
    level = np.float32(levels_T[int(np.argmax(found_T))])

    scale_N, place_N, mates_N = _lines(
        features_ND, neighbors_NK, similarities_NK, num_rows, sample_S, sample_SD, ranks_P, level, threads
    )
    classes_N = np.floor(np.log2(1 + mates_N)).astype(np.uint8)
    known = np.isfinite(scale_N)
    if known.any():
        scale_N[~known], place_N[~known] = np.median(scale_N[known]), np.median(place_N[known])
    else:  # too few rows for any line: no similarity reaches this place, so no edge has evidence
        scale_N[:], place_N[:] = 1, 9
    counts_C = np.bincount(classes_N[rows])
    log_odds_CB, expected = _log_odds(neighbors_NK, similarities_NK, scale_N, place_N, classes_N, counts_C, threads)
    near = order[min(int(np.searchsorted(shares, neighbors_NK.shape[1])), len(order) - 1)]
    degree = _degree(order, shares, level)
    told = Told(num_rows, float(level), float(found_T.max()), degree, expected, float(stays(float(near)).mean()))
    return Lines(scale_N, place_N, classes_N, log_odds_CB), told


def edge_log_odds(lines: Lines, sources_E: Array, targets_E: Array, similarities_E: Array) -> Array:
    """Log-odds (E,) float32 that edges are true: the mean of what both ends say of their common evidence."""
    bins_E = _bins(lines.scale_N, lines.place_N, sources_E, targets_E, similarities_E)
    table, classes_N = lines.log_odds_CB, lines.classes_N
    return (table[classes_N[sources_E], bins_E] + table[classes_N[targets_E], bins_E]) / np.float32(2)


def _products(features_ND: Array, rows: Array, sample_SD: Array, threads: int) -> Array:
    """Cosines of rows with the sample, (n, S) float32, tile by tile: the same bits for any number of threads."""
    out = np.empty((len(rows), len(sample_SD)), np.float32)

    def run(tile: tuple[int, int]) -> None:
        out[slice(*tile)] = np.asarray(features_ND[rows[slice(*tile)]], np.float32) @ sample_SD.T

    with single_threaded_kernels():
        map_tiles(run, tile_bounds(0, len(rows), TILE_ROWS), threads)
    return out


def _curves(listed_SK: Array, sorted_SS: Array, num_rows: int) -> tuple[Array, Array]:
    """Ranks (P,) float64 and similarities (n, P) float32: those listed, and beyond them the sample's, thinned."""
    listed = np.arange(1, listed_SK.shape[1] + 1, dtype=np.float64)
    rate = (num_rows - 1) / max(sorted_SS.shape[1] - 1, 1)
    places = np.unique(np.concatenate([np.arange(1, 81), np.geomspace(80, 2_000, 60).astype(np.int64)]))
    ranks = places * rate
    kept = (ranks > listed[-1] + 1) & (places < sorted_SS.shape[1])
    return np.concatenate([listed, ranks[kept]]), _joined(listed_SK, sorted_SS[:, places[kept] - 1])


def _joined(listed_SK: Array, beyond_SB: Array) -> Array:
    """Lists and what follows them; where copies were left out of a list, its last similarity holds the places."""
    counts = (listed_SK > NO_SIMILARITY).sum(axis=1)
    last = np.take_along_axis(listed_SK, np.maximum(counts - 1, 0)[:, None], axis=1)
    short = (np.arange(listed_SK.shape[1]) >= counts[:, None]) & (counts > 0)[:, None] & (beyond_SB.shape[1] > 0)
    return np.minimum.accumulate(np.hstack([np.where(short, last, listed_SK), beyond_SB]), axis=1)


def _pooled(ranks_P: Array, curves_SP: Array) -> tuple[Array, Array]:
    """All similarities of the curves in descending order, and the mean number of neighbours above each."""
    weights_P = np.diff(np.concatenate([[0.0], ranks_P]))
    flat = curves_SP.ravel()
    order = np.argsort(-flat, kind="stable")
    shares = np.cumsum(np.broadcast_to(weights_P, curves_SP.shape).ravel()[order]) / len(curves_SP)
    return flat[order], shares


def _degree(order: Array, shares: Array, level: Any) -> float:
    """The mean number of neighbours above a level."""
    return float(shares[np.searchsorted(-order, -level)]) if level > order[-1] else float(shares[-1])


def _chance(ranks_P: Array) -> Array:
    """Mean evidence of a prefix of each number of points (P + 1,) where all are strangers, by simulation."""
    last = int(min(ranks_P[-1], 4_000))
    spacings = stream(0, STRANGERS, 2).exponential(size=(SIMULATED, last)) / np.arange(1, last + 1)
    curves = -np.cumsum(spacings, axis=1)[:, np.minimum(np.round(ranks_P).astype(np.int64), last) - 1]
    return _mean_evidence(ranks_P, curves.astype(np.float32))


@njit(nogil=True, cache=True)
def _fit(ranks, curve, mates):  # type: ignore[no-untyped-def]
    """Fit the line of the strangers behind the first ``mates`` points: its scale and place, NaN if they are too few."""
    num_mates = ranks[mates - 1] if mates > 0 else 0.0
    last = 2 * num_mates + BACKGROUND_RANKS
    weight = mean = square = total = cross = 0.0
    count = 0
    for k in range(mates, len(ranks)):
        if (ranks[k] > last and count >= 8) or curve[k] == NO_SIMILARITY:
            break
        rank = ranks[k] - num_mates
        if rank < 0.5:
            continue
        step = ranks[k] - (ranks[k - 1] if k > 0 else 0.0)
        x = np.log(rank)
        w = np.log((rank + 0.5 * step) / max(rank - 0.5 * step, 0.5 * min(step, 1.0))) * np.sqrt(rank)
        weight += w
        mean += w * x
        square += w * x * x
        total += w * curve[k]
        cross += w * x * curve[k]
        count += 1
    if count < FEWEST_POINTS:
        return np.nan, np.nan
    scale = max(-(weight * cross - mean * total) / (weight * square - mean * mean), 1e-4)
    return scale, (total + scale * mean) / weight


@njit(nogil=True, cache=True)
def _mean_evidence(ranks, curves):  # type: ignore[no-untyped-def]
    found = np.zeros(len(ranks) + 1)
    for mates in range(1, len(ranks) - 8):
        if mates > 16 and mates % 8:
            found[mates] = found[mates - 1]
            continue
        total, count = 0.0, 0
        for row in range(len(curves)):
            scale, place = _fit(ranks, curves[row], mates)
            if np.isnan(scale):
                continue
            total += (_mean_prefix(ranks, curves[row], mates) - place) / scale
            count += 1
        found[mates] = total / max(count, 1)
    for mates in range(max(len(ranks) - 8, 1), len(ranks) + 1):
        found[mates] = found[mates - 1]
    return found


@njit(nogil=True, cache=True)
def _mean_prefix(ranks, curve, mates):  # type: ignore[no-untyped-def]
    total = previous = 0.0
    for k in range(mates):
        total += (ranks[k] - previous) * curve[k]
        previous = ranks[k]
    return total / previous


@njit(nogil=True, cache=True)
def _evidence_of_rows(ranks, curves, level, chance):  # type: ignore[no-untyped-def]
    """Mean evidence of each row's mates, less what strangers alone would give; NaN where no line can be fitted."""
    found = np.zeros(len(curves))
    for row in range(len(curves)):
        mates = 0
        while mates < len(ranks) and curves[row, mates] > level:
            mates += 1
        scale, place = _fit(ranks, curves[row], mates)
        if np.isnan(scale):
            found[row] = np.nan
        elif mates > 0:
            evidence = (_mean_prefix(ranks, curves[row], mates) - place) / scale
            found[row] = min(max(evidence, -MOST_EVIDENCE), MOST_EVIDENCE) - chance[mates]
    return found


@njit(nogil=True, cache=True)
def _transitivity(  # type: ignore[no-untyped-def]
    neighbors, similarities, sample, products, nearest, level, walks, num_rows
):
    """Share of two-step walks among mates, each row its own mate too, that end at a mate of the first row.

    A row whose mates are all listed walks along lists, another along the rows of the sample. ``nearest``: the places in
    ``products`` of each row of the sample, by descending product.
    """
    stays = np.zeros(len(sample))
    num_listed = neighbors.shape[1]
    rate = (num_rows - 1) / max(len(sample) - 1, 1)
    for i in range(len(sample)):
        own = sample[i]
        count = 0
        while count < num_listed and neighbors[own, count] >= 0 and similarities[own, count] > level:
            count += 1
        listed = count < num_listed
        kept = 0
        for walk in range(walks.shape[1]):
            draw = walks[i, walk]
            if listed:
                middle = own
                if count > 0 and draw[0] * (count + 1) >= 1:
                    middle = neighbors[own, min(int(draw[1] * count), count - 1)]
                others = 0
                while others < num_listed and neighbors[middle, others] >= 0 and similarities[middle, others] > level:
                    others += 1
                end = middle
                if others > 0 and draw[2] * (others + 1) >= 1:
                    end = neighbors[middle, min(int(draw[3] * others), others - 1)]
                found = end == own
                for k in range(count):
                    found |= neighbors[own, k] == end
                kept += found
            else:
                middle_place = _step(products, nearest, i, level, rate, draw[0], draw[1])
                end_place = _step(products, nearest, middle_place, level, rate, draw[2], draw[3])
                kept += end_place == i or products[i, end_place] > level
        stays[i] = kept / walks.shape[1]
    return stays


@njit(nogil=True, cache=True)
def _step(products, nearest, place, level, rate, stay, which):  # type: ignore[no-untyped-def]
    """The row of the sample that a step from one leads to: itself, or one of its mates."""
    count, above = 0, nearest.shape[1]  # mates are the first places of ``nearest``
    while count < above:
        middle = (count + above) // 2
        if products[place, nearest[place, middle]] > level:
            count = middle + 1
        else:
            above = middle
    if count == 0 or stay * (count * rate + 1) < 1:
        return place
    return int(nearest[place, min(int(which * count), count - 1)])


def _lines(
    features_ND: Array,
    neighbors_NK: Array,
    similarities_NK: Array,
    num_counted: int,
    sample_S: Array,
    sample_SD: Array,
    ranks_P: Array,
    level: np.float32,
    threads: int,
) -> tuple[Array, Array, Array]:
    """The line of every row's strangers, and its number of mates: scale, place, mates (N,) float32.

    Lists are enough where ``FEW_LISTED`` of their places lie behind the mates; else the sample continues them.
    """
    num_rows, num_listed = neighbors_NK.shape
    lines = np.empty((3, num_rows), np.float32)
    listed_P = ranks_P[:num_listed]

    def run(tile: tuple[int, int]) -> None:
        rows = np.arange(*tile)
        listed = np.asarray(similarities_NK[slice(*tile)])
        lines[:, slice(*tile)] = _fit_rows(listed_P, listed, level)
        longer = rows[(listed > level).sum(axis=1) > num_listed - FEW_LISTED]
        if len(longer) and len(ranks_P) > num_listed:
            products = np.asarray(features_ND[longer], np.float32) @ sample_SD.T
            products[sample_S[None, :] == longer[:, None]] = NO_SIMILARITY
            _, curves = _curves(listed[longer - tile[0]], -np.sort(-products, axis=1), num_counted)
            lines[:, longer] = _fit_rows(ranks_P, curves, level)

    with single_threaded_kernels():
        map_tiles(run, tile_bounds(0, num_rows, TILE_ROWS), threads)
    return lines[0], lines[1], lines[2]


@njit(nogil=True, cache=True)
def _fit_rows(ranks, curves, level):  # type: ignore[no-untyped-def]
    found = np.empty((3, len(curves)), np.float32)
    for row in range(len(curves)):
        mates = 0
        while mates < len(ranks) and curves[row, mates] > level:
            mates += 1
        found[0, row], found[1, row] = _fit(ranks, curves[row], mates)
        found[2, row] = ranks[mates - 1] if mates > 0 else 0.0
    return found


@njit(nogil=True, cache=True)
def _bins(scale, place, sources, targets, similarities):  # type: ignore[no-untyped-def]
    """The bin of each edge's evidence: the lower of both ends', corrected for a scale that few ranks estimate."""
    bins = np.empty(len(sources), np.uint8)
    for e in range(len(sources)):
        a, b = sources[e], targets[e]
        x = min((similarities[e] - place[a]) / scale[a], (similarities[e] - place[b]) / scale[b])
        if x > 0:
            x = BACKGROUND_RANKS * np.log1p(x / BACKGROUND_RANKS)
        bins[e] = min(max(int(np.floor((x - LEAST_BIN) / BIN)), 0), NUM_BINS - 1)
    return bins


def _log_odds(
    neighbors_NK: Array,
    similarities_NK: Array,
    scale_N: Array,
    place_N: Array,
    classes_N: Array,
    counts_C: Array,
    threads: int,
) -> tuple[Array, float]:
    """Log-odds of edges by the class of an end and the bin of the evidence (C, B), and how many edges they make true.

    From n rows strangers give at most n e^-x ends of edges of evidence beyond x. A chance edge may have lifted a row
    into its class from the one below, so the rows of that class count, too. ``counts_C``: how many rows a class has.
    """
    num_classes = int(classes_N.max(initial=0)) + 1
    counts = np.zeros((num_classes, NUM_BINS), np.int64)
    pairs = np.zeros((num_classes * num_classes, NUM_BINS), np.int64)
    for begin, end in tile_bounds(0, len(neighbors_NK), CHUNK_ROWS):
        edges = undirected_edges(neighbors_NK, similarities_NK, begin, end, threads=threads)
        bins_E = _bins(scale_N, place_N, *edges).astype(np.int64)
        first_E, second_E = (classes_N[ends].astype(np.int64) for ends in (edges.sources, edges.targets))
        for classes_E in (first_E, second_E):
            counts += np.bincount(classes_E * NUM_BINS + bins_E, minlength=counts.size).reshape(counts.shape)
        both = (first_E * num_classes + second_E) * NUM_BINS + bins_E
        pairs += np.bincount(both, minlength=pairs.size).reshape(pairs.shape)
    rows = np.bincount(np.arange(len(counts_C)), counts_C, num_classes).astype(np.int64)
    rows[1:] += rows[:-1].copy()
    edges_B = LEAST_BIN + BIN * np.arange(NUM_BINS + 1)
    chance_B = np.exp(-edges_B[:-1]) - np.exp(-edges_B[1:])
    chance_B[0] = np.inf  # the first bin has all that lies below it, too
    table = np.empty((num_classes, NUM_BINS), np.float32)
    for number in range(num_classes):
        seen = counts[number]
        rates = np.minimum(np.maximum(rows[number], 1) * chance_B / np.maximum(seen, 1), 1.0)
        rates = (
            np.interp(np.arange(NUM_BINS), np.flatnonzero(seen), rates[seen > 0]) if seen.any() else np.ones(NUM_BINS)
        )
        false_B = np.clip(falling(rates, np.maximum(seen, 1e-3)), 1 / (seen.sum() + 1), 1 - 1e-9)
        table[number] = np.log1p(-false_B) - np.log(false_B)
    by_pair = (table[:, None] + table[None, :]).reshape(pairs.shape) / 2
    return table, float((pairs / (1 + np.exp(-by_pair.astype(np.float64)))).sum())


@njit(cache=True)
def falling(values, weights):  # type: ignore[no-untyped-def]
    """The nearest non-increasing sequence in weighted least squares (pool adjacent violators)."""
    level, weight, length = np.empty(len(values)), np.empty(len(values)), np.empty(len(values), np.int64)
    blocks = 0
    for k in range(len(values)):
        level[blocks], weight[blocks], length[blocks] = values[k], weights[k], 1
        blocks += 1
        while blocks > 1 and level[blocks - 2] < level[blocks - 1]:
            both = weight[blocks - 2] + weight[blocks - 1]
            mean = (level[blocks - 2] * weight[blocks - 2] + level[blocks - 1] * weight[blocks - 1]) / both
            level[blocks - 2], weight[blocks - 2] = mean, both
            length[blocks - 2] += length[blocks - 1]
            blocks -= 1
    return np.repeat(level[:blocks], length[:blocks])
