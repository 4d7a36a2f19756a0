"""The structural scorer: boosted trees over what the KNN graph says about an edge, in two steps.

The first step scores an edge from the lists of its two ends (the prior); the second from those inputs and from the
priors of all that both ends list. The first is fitted twice, on either half of the identities, so that the second
learns from priors of edges that their trees never saw.
Legend: N vertices, K neighbours, D feature dimension, P profile, E edges, F inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine.errors import DataError
from engine.graph.adjacency import EdgeList
from engine.graph.overlaps import AVERAGED, NUM_OVERLAPS, OVERLAP_NAMES, fill_overlaps
from engine.graph.structural_inputs import NUM_STRUCTURAL, STRUCTURAL_NAMES, fill_cosines, fill_structural
from engine.graph.support import NUM_SUPPORT, PRIOR_ONE, SUPPORT_NAMES, fill_listed, fill_support, store_priors
from engine.learning.held_out import UNSEEN
from engine.learning.tensors import take_array
from engine.methods.structural.settings import TreesSettings
from engine.methods.structural.trees import Trees, fill_logits
from engine.random_streams import FITTED_EDGES, THINNED_EDGES, stream
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

INPUT_NAMES = (*STRUCTURAL_NAMES, *OVERLAP_NAMES, *(f"average_cosine_{count}" for count in AVERAGED))
ALL_NAMES = (*INPUT_NAMES, *SUPPORT_NAMES)
NUM_INPUTS, NUM_ALL = len(INPUT_NAMES), len(ALL_NAMES)
TILE_EDGES = 1_024
UNLISTED = -2.0  # log-odds at most of an edge that a second graph does not list


class Neighborhoods(NamedTuple):
    """What scoring reads, plain or memory-mapped: the graph, ``vertex_profiles`` and ``neighborhood_averages``.

    ``originals_ND``: the vectors as they were given, float16 unit rows, where the graph is of projected ones.
    ``vectors_N``: where each vertex's averages and original lie; ``None`` if at its own number.
    """

    neighbors_NK: Array
    similarities_NK: Array
    profiles_NP: Array
    averages: tuple[Array, ...]
    originals_ND: Array | None = None
    vectors_N: Array | None = None

    def count_inputs(self, with_priors: bool) -> int:
        """Columns of ``edge_inputs`` (F)."""
        return (NUM_ALL if with_priors else NUM_INPUTS) + (self.originals_ND is not None)


class SecondScores(NamedTuple):
    """What a second graph of the same rows says: its lists (N, K), their scores (N, K) as ``listed_scores`` gives them.

    ``vertices_N``: int32, its vertex of each of the first graph's; ``None`` if they are numbered alike.
    """

    neighbors_NK: Array
    scores_NK: Array
    vertices_N: Array | None = None

    def log_odds(self, sources: Array, targets: Array, logits: Array) -> Array:
        """Log-odds of edges of the first graph, float32; where the second does not list them, ``UNLISTED`` at most.

        ``logits``: those of the first graph's trees, which are taken where they are lower.
        """
        if self.vertices_N is not None:
            sources, targets = self.vertices_N[sources], self.vertices_N[targets]
        found = np.empty(len(sources), np.int32)
        fill_listed(self.neighbors_NK, self.scores_NK, sources, targets, found)
        share = np.clip(found, 0.5, PRIOR_ONE - 0.5) / PRIOR_ONE
        unlisted = np.minimum(logits, np.float32(UNLISTED))
        return np.where(found < 0, unlisted, np.log(share / (1 - share))).astype(np.float32)


@dataclass(frozen=True)
class StructuralScorer:
    """The fitted trees: the priors', whose log-odds are averaged, and the final score's, with its calibration.

    Log-odds are ``slope`` times the trees', ``second_slope`` times a second graph's, and ``offset``.
    """

    priors: tuple[Trees, ...]
    final: Trees
    slope: float = 1.0
    offset: float = 0.0
    second_slope: float = 0.0


def edge_inputs(graph: Neighborhoods, edges: EdgeList, priors_NK: Array | None = None, *, threads: int = 1) -> Array:
    """Compute (E, F) float32 inputs, columns as in ``INPUT_NAMES``; with priors as in ``ALL_NAMES``.

    Where the graph is of projected vectors, the last column is the cosine of the original ones.
    """
    result = np.empty((len(edges.sources), graph.count_inputs(priors_NK is not None)), np.float32)

    def run(tile: tuple[int, int]) -> None:
        _fill(graph, EdgeList(*(column[slice(*tile)] for column in edges)), priors_NK, result[slice(*tile)])

    map_tiles(run, tile_bounds(0, len(result), TILE_EDGES), threads)
    return result


def score_edges(
    scorer: StructuralScorer,
    graph: Neighborhoods,
    priors_NK: Array,
    edges: EdgeList,
    second: SecondScores | None = None,
    *,
    threads: int = 1,
) -> Array:
    """Score undirected edges: (E,) float32, the calibrated probability that both ends are one identity.

    Whether a scorer of two graphs is given ``second`` is up to the caller.
    """
    scores = np.empty(len(edges.sources), np.float32)
    slope, offset, second_slope = (np.float32(x) for x in (scorer.slope, scorer.offset, scorer.second_slope))

    def run(tile: tuple[int, int]) -> None:
        part = EdgeList(*(column[slice(*tile)] for column in edges))
        inputs, logits = np.empty((len(part.sources), graph.count_inputs(True)), np.float32), scores[slice(*tile)]
        _fill(graph, part, priors_NK, inputs)
        _logits(scorer.final, inputs, logits)
        others = second_slope * second.log_odds(part.sources, part.targets, logits) if second else np.float32(0)
        logits[:] = _probability(slope * logits + others + offset)

    map_tiles(run, tile_bounds(0, len(scores), TILE_EDGES), threads)
    return scores


def listed_scores(
    scorer: StructuralScorer, graph: Neighborhoods, priors_NK: Array, start: int, stop: int, *, threads: int = 1
) -> Array:
    """Score what rows ``start..stop`` list: (n, K) uint16 as ``store_priors`` gives them, 0 where nothing is listed."""
    return listed_scores_of(scorer, graph, priors_NK, np.arange(start, stop, dtype=np.int32), threads=threads)


def listed_scores_of(
    scorer: StructuralScorer, graph: Neighborhoods, priors_NK: Array, rows_n: Array, *, threads: int = 1
) -> Array:
    """As ``listed_scores``, of the rows ``rows_n`` (n,) int32."""
    row, rank, edges = _listed_edges(graph, rows_n)
    scores = np.zeros((len(rows_n), graph.neighbors_NK.shape[1]), np.uint16)
    scores[row, rank] = store_priors(score_edges(scorer, graph, priors_NK, edges, threads=threads))
    return scores


def prior_rows(
    trees: tuple[Trees, ...],
    graph: Neighborhoods,
    start: int,
    stop: int,
    halves_N: Array | None = None,
    *,
    threads: int = 1,
) -> Array:
    """Compute the priors of what rows ``start..stop`` list: (n, K) uint16, 0 where nothing is listed.

    The mean log-odds of all fits. With ``halves_N`` (0, 1, else unseen), an edge inside one half gets the other's.
    """
    return priors_of(trees, graph, np.arange(start, stop, dtype=np.int32), halves_N, threads=threads)


def priors_of(
    trees: tuple[Trees, ...], graph: Neighborhoods, rows_n: Array, halves_N: Array | None = None, *, threads: int = 1
) -> Array:
    """As ``prior_rows``, of the rows ``rows_n`` (n,) int32."""
    row, rank, edges = _listed_edges(graph, rows_n)
    priors = np.zeros((len(rows_n), graph.neighbors_NK.shape[1]), np.uint16)
    priors[row, rank] = prior_scores(trees, graph, edges, halves_N, threads=threads)
    return priors


def prior_scores(
    trees: tuple[Trees, ...], graph: Neighborhoods, edges: EdgeList, halves_N: Array | None = None, *, threads: int = 1
) -> Array:
    """Compute the priors of edges: (E,) uint16, as ``prior_rows`` has them."""
    found = np.empty(len(edges.sources), np.uint16)

    def run(tile: tuple[int, int]) -> None:
        part = EdgeList(*(column[slice(*tile)] for column in edges))
        inputs, logits = (
            np.empty((len(part.sources), graph.count_inputs(False)), np.float32),
            np.empty((len(trees), len(part.sources))),
        )
        _fill(graph, part, None, inputs)
        for fitted, out in zip(trees, logits, strict=True):
            single = np.empty(len(out), np.float32)
            _logits(fitted, inputs, single)
            out[:] = single
        mean = logits.mean(axis=0)
        if halves_N is not None:
            first, second = halves_N[part.sources], halves_N[part.targets]
            for half in (0, 1):
                inside = (first == half) & (second == half)
                mean[inside] = logits[1 - half][inside]
        found[slice(*tile)] = store_priors(_probability(mean))

    map_tiles(run, tile_bounds(0, len(found), TILE_EDGES), threads)
    return found


def draw_edges(
    blocks: Iterable[EdgeList], identities_N: Array, halves_N: Array, half: int, config: TreesSettings, seed: int
) -> tuple[EdgeList, Array, Array]:
    """Draw edges to fit on: those whose ends are both in ``half`` (-1: in either), and those with an unseen end.

    At most ``max_edges`` of the first kind and a quarter as many of the other; an edge's chance falls with the sizes of
    its ends' identities, so that a few large ones do not own the loss (weighted reservoir of Efraimidis and Spirakis,
    2006). Of edges with one unseen end, all of two identities, a random half is left out: each unseen end has its edges
    as a new row will, but an edge between two such is counted once. Returns the edges, in order, which are of one
    identity, and which are held out.
    Raises ``DataError`` if no edge is left to fit on.
    """
    _, places, sizes = np.unique(identities_N, return_inverse=True, return_counts=True)
    factor = sizes[places].astype(np.float64) ** (config.identity_balance / 2)
    rng, thinning = stream(seed, FITTED_EDGES, half + 1), stream(seed, THINNED_EDGES, half + 1)
    nothing = (np.empty(0), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    kept: list[list[tuple[Array, ...]]] = [[nothing], [nothing]]
    rooms = (config.max_edges, config.max_edges // 4)
    for edges in blocks:
        first, second = halves_N[edges.sources], halves_N[edges.targets]
        labelled = (identities_N[edges.sources] >= 0) & (identities_N[edges.targets] >= 0)
        unseen = (first == UNSEEN) | (second == UNSEEN)
        inside = (first != UNSEEN) & (second != UNSEEN) if half < 0 else (first == half) & (second == half)
        counted = ((first == UNSEEN) == (second == UNSEEN)) | (thinning.random(len(first)) < 0.5)
        keys = rng.standard_exponential(len(first)) * factor[edges.sources] * factor[edges.targets]
        for kind, chosen in enumerate((inside & labelled, unseen & labelled & counted)):
            kept[kind].append((keys[chosen], *(column[chosen] for column in edges)))
            if sum(len(part[0]) for part in kept[kind]) > 2 * rooms[kind]:
                kept[kind] = [_least(kept[kind], rooms[kind])]
    fitted, held = (_least(parts, room) for parts, room in zip(kept, rooms, strict=True))
    if len(fitted[0]) == 0:
        raise DataError("structural: no edge joins two rows of known identity that are not held out")
    columns = [np.concatenate(pair) for pair in zip(fitted[1:], held[1:], strict=True)]
    held_out = np.arange(len(columns[0])) >= len(fitted[0])
    order = np.lexsort((columns[1], columns[0]))
    drawn = EdgeList(*(column[order] for column in columns))
    return drawn, identities_N[drawn.sources] == identities_N[drawn.targets], held_out[order]


def explained_share(logits_E: Array, same_E: Array) -> float:
    """Share of the entropy of ``same_E`` that log-odds explain (McFadden's R2, 1974); 0 if all are of one kind."""
    share = float(same_E.mean()) if len(same_E) else 0.0
    if share in (0.0, 1.0):
        return 0.0
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    return float(1 - np.logaddexp(0, np.where(same_E, -logits_E, logits_E)).mean(dtype=np.float64) / entropy)


def calibrate(same_E: Array, *logits_E: Array) -> tuple[list[float], float]:
    """Fit a slope of each log-odds, and an offset, on held-out edges (Platt, 1999, by Newton's method).

    Edges of one kind only give slopes that average and no offset; a slope below 0 is none: the rest are fitted alone.
    """
    count = len(logits_E)
    start = np.append(np.full(count, 1 / count), 0.0)
    if len(same_E) == 0 or same_E.all() or not same_E.any():
        return start[:-1].tolist(), 0.0
    design = np.stack([*(logits.astype(np.float64) for logits in logits_E), np.ones(len(same_E))])
    point = start
    for _ in range(30):
        share = _probability(point @ design)
        gradient = design @ (share - same_E) + 1e-3 * (point - start)
        curvature = (design * (share * (1 - share))) @ design.T + 1e-3 * np.eye(count + 1)
        point = point - np.clip(np.linalg.solve(curvature, gradient), -0.5, 0.5)
    least = int(np.argmin(point[:-1]))
    if count > 1 and point[least] < 0:
        slopes, offset = calibrate(same_E, *(logits for place, logits in enumerate(logits_E) if place != least))
        return [*slopes[:least], 0.0, *slopes[least:]], offset
    return [max(slope, 0.1 / count) for slope in point[:-1].tolist()], float(point[-1])


def calibrate_counts(log_odds_B: Array, joined_B: Array, counts_B: Array) -> tuple[float, float]:
    """Fit slope and offset of log-odds in bins, of whose ``counts_B`` edges ``joined_B`` are joined (Platt, 1999).

    A slope of 1 and no offset are as likely as a thousandth of the edges makes them, so that edges of one kind decide
    nothing.
    """
    design, start = np.stack([log_odds_B, np.ones(len(log_odds_B))]), np.array([1.0, 0.0])
    point, ridge = start, 1e-3 * max(float(counts_B.sum()), 1.0)
    for _ in range(100):
        share = _probability(point @ design)
        gradient = design @ (counts_B * share - joined_B) + ridge * (point - start)
        curvature = (design * (counts_B * share * (1 - share))) @ design.T + ridge * np.eye(2)
        point = point - np.clip(np.linalg.solve(curvature, gradient), -0.5, 0.5)
    return max(float(point[0]), 0.01), float(point[1])


def offset_of_sum(log_odds_B: Array, counts_B: Array, expected: float) -> float:
    """Find what to add to log-odds in bins so that their ``counts_B`` edges have ``expected`` true ones among them."""
    least, most = -100.0, 100.0
    for _ in range(60):
        middle = (least + most) / 2
        if float((counts_B * _probability(log_odds_B + middle)).sum()) < expected:
            least = middle
        else:
            most = middle
    return (least + most) / 2


def to_tensors(scorer: StructuralScorer) -> dict[str, Array]:
    """Name the scorer's arrays, for a file."""
    tensors = {"calibration": np.array([scorer.slope, scorer.offset, scorer.second_slope])}
    for number, trees in enumerate(scorer.priors):
        tensors |= trees_to_tensors(f"prior_{number}", trees)
    return tensors | trees_to_tensors("final", scorer.final)


def from_tensors(tensors: dict[str, Array]) -> StructuralScorer:
    """Build the scorer that ``to_tensors`` named the arrays of."""
    calibration = take_array(tensors, "calibration", "float64", 3).tolist()
    return StructuralScorer(priors_from_tensors(tensors), trees_from_tensors("final", tensors), *calibration)


def check_alone(tensors: dict[str, Array]) -> Array:
    """The calibration of the first graph's scorer without a second graph's: (3,) float64."""
    calibration = take_array(tensors, "alone", "float64", 3)
    if not np.isfinite(calibration).all():
        raise DataError("tensor alone holds NaN or infinity")
    return calibration


def check_tensors(tensors: dict[str, Array], *, originals: bool) -> None:
    """Raise ``DataError`` for tensors that are no scorer; ``originals``: of a graph of projected vectors."""
    scorer = from_tensors(tensors)
    if not scorer.priors:
        raise DataError("tensor prior_0.inputs is missing")
    for trees in scorer.priors:
        trees.check_columns(NUM_INPUTS + originals)
    scorer.final.check_columns(NUM_ALL + originals)
    if not np.isfinite([scorer.slope, scorer.offset, scorer.second_slope]).all():
        raise DataError("tensor calibration holds NaN or infinity")


def priors_from_tensors(tensors: dict[str, Array]) -> tuple[Trees, ...]:
    """Build the priors' trees."""
    numbers = range(sum(name.startswith("prior_") and name.endswith(".bias") for name in tensors))
    return tuple(trees_from_tensors(f"prior_{number}", tensors) for number in numbers)


def trees_to_tensors(name: str, trees: Trees) -> dict[str, Array]:
    """Name the arrays of one ensemble."""
    return {
        f"{name}.inputs": trees.inputs,
        f"{name}.thresholds": trees.thresholds,
        f"{name}.values": trees.values,
        f"{name}.bias": np.array([trees.bias]),
    }


def trees_from_tensors(name: str, tensors: dict[str, Array]) -> Trees:
    """Build one ensemble from its named arrays."""
    parts = (("inputs", "int16"), ("thresholds", "float32"), ("values", "float32"))
    inputs, thresholds, values = (take_array(tensors, f"{name}.{part}", dtype, None, None) for part, dtype in parts)
    bias = take_array(tensors, f"{name}.bias", "float64", 1)
    try:
        return Trees(inputs, thresholds, values, float(bias[0]))
    except DataError as error:
        raise DataError(f"tensors {name}.*: {error}") from None


def _listed_edges(graph: Neighborhoods, rows_n: Array) -> tuple[Array, Array, EdgeList]:
    listed = graph.neighbors_NK[rows_n]
    row, rank = np.nonzero(listed >= 0)
    own, other = rows_n[row], listed[row, rank]
    edges = EdgeList(np.minimum(own, other), np.maximum(own, other), graph.similarities_NK[own, rank])
    return row, rank, edges


def _fill(graph: Neighborhoods, edges: EdgeList, priors: Array | None, out: Array) -> None:
    if out.shape[1] != graph.count_inputs(priors is not None):  # kernels write where they are told
        raise ValueError(f"{out.shape[1]} columns for {graph.count_inputs(priors is not None)} inputs")
    fill_structural(graph.neighbors_NK, graph.similarities_NK, *edges, out)
    column = NUM_STRUCTURAL
    fill_overlaps(*graph[:3], *edges, out[:, column:])
    column += NUM_OVERLAPS
    a, b = edges.sources, edges.targets
    if graph.vectors_N is not None:
        a, b = graph.vectors_N[a], graph.vectors_N[b]
    for averages in graph.averages:
        fill_cosines(averages, a, b, out[:, column])
        column += 1
    if priors is not None:
        fill_support(graph.neighbors_NK, priors, edges.sources, edges.targets, out[:, column:])
        column += NUM_SUPPORT
    if graph.originals_ND is not None:
        fill_cosines(graph.originals_ND, a, b, out[:, column])
        column += 1


def _logits(trees: Trees, inputs: Array, out: Array) -> None:
    trees.check_columns(inputs.shape[1])
    fill_logits(trees.inputs, trees.thresholds, trees.values, np.float32(trees.bias), inputs, out)


def _probability(logits: Array) -> Array:
    return 1 / (1 + np.exp(np.minimum(-logits, 80)))  # float32 ends at 88


def _least(parts: list[tuple[Array, ...]], room: int) -> tuple[Array, ...]:
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if len(columns[0]) > room:
        chosen = np.sort(np.argpartition(columns[0], room)[:room])
        columns = [column[chosen] for column in columns]
    return tuple(columns)
