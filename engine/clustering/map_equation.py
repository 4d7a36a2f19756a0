"""Clusters that describe a random walk on a weighted graph in the fewest bits: the two-level map equation.

The search is local moving and aggregation (Rosvall and Bergstrom, PNAS 2008), then rounds of single vertices' and
submodules' moves (Rosvall, Axelsson and Bergstrom, EPJ ST 178, 2009) until a round saves nothing.

The search runs in parallel and gives the same bits for any number of threads. The vertices start in fixed blocks by id.
Each block is searched alone, as if the other blocks were a copy of it. Then the modules of all blocks are moved as the
nodes of one small graph, one after another. Afterwards every vertex is asked, in tiles, whether it would move if no
other vertex did; only vertices that would are moved, one after another.
Shape suffixes: N vertices, n nodes of a level, M modules, P parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.module_flows import add_leaving, add_strengths, find_wrong_link, sum_bits
from engine.clustering.module_moves import (
    MAX_LEVELS,
    MAX_PASSES,
    link_modules,
    move_nodes,
    number_modules,
    order_members,
    propose_moves,
    solve_graph,
    solve_parts,
)
from engine.clustering.union_find import flatten, union
from engine.errors import DataError
from engine.tiles import map_tiles, tile_bounds

BLOCK_VERTICES = 1 << 15  # vertices of a block; results depend on it
TILE_VERTICES = 1 << 15
MAX_ROUNDS = 20
_MOST_SEEDS = 2**62  # a seed below it plus the number of rounds fits an int64
LEAST_IMPROVEMENT = 1e-10  # a round that saves a smaller share of the codelength is the last

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class WalkModules:
    """A graph's modules: ``roots_N``, the lowest vertex id of each vertex's module (int32), and their codelength."""

    roots_N: NDArray[np.int32]
    num_modules: int
    codelength: float
    num_rounds: int


def map_equation(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    weights: NDArray[np.float32],
    *,
    threads: int = 1,
    seed: int = 0,
) -> WalkModules:
    """Find the modules of an undirected weighted graph whose two-level map equation (see ``codelength``) is least.

    ``indptr`` (N + 1), ``indices`` and ``weights``: symmetric CSR, each undirected edge in both ends' rows, as
    ``build_weighted_adjacency`` gives it. Weights up to 0 are ignored; a self loop counts once towards its vertex's
    flow. A vertex without links is a module of its own. Every module is connected, and the codelength exceeds neither
    that of the connected components nor that of vertices alone.
    The result is equal for any number of threads. With rows in another order, sums may round differently and ties may
    fall differently. ``seed`` sets the order in which vertices are visited. The search is fast if vertices with close
    ids are close in the graph. Memory besides the graph: about 175 bytes per vertex, 30 MB per thread, and 8 bytes per
    pair of linked modules of the first blocks (few pairs in cell order; up to the graph's own size for random ids).
    Raises ``DataError`` for arrays that disagree, ids outside the vertices and weights that are not finite.
    """
    seed %= _MOST_SEEDS
    graph = _walk(indptr, indices, weights, threads)
    roots = _merge_modules(graph, _search_blocks(graph, seed, threads), seed, threads)
    roots, num_rounds = _tune(graph, roots, None, seed, threads)
    roots = _fall_back(graph, _split_modules(graph, roots, threads), threads)
    return _modules(graph, roots, num_rounds, threads)


def refine_modules(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    weights: NDArray[np.float32],
    roots_N: NDArray[np.int32],
    *,
    threads: int = 1,
    seed: int = 0,
) -> WalkModules:
    """Improve given modules, the lowest vertex of each vertex's module, as ``map_equation`` improves those it finds.

    Vertices move, modules merge, and modules that have changed are searched for parts, until a round saves nothing.
    Graph and errors as for ``map_equation``.
    """
    seed %= _MOST_SEEDS
    graph = _walk(indptr, indices, weights, threads)
    given = np.ascontiguousarray(roots_N, np.int32)
    roots, num_rounds = _tune(graph, _merge_modules(graph, given, seed, threads), given, seed, threads)
    return _modules(graph, _split_modules(graph, roots, threads), num_rounds, threads)


def _tune(graph: _Graph, roots: Array, searched: Array | None, seed: int, threads: int) -> tuple[Array, int]:
    """Move vertices, submodules and modules in rounds until a round saves nothing; count the rounds."""
    bits = _codelength(graph, roots, threads)
    num_rounds = 0
    while num_rounds < MAX_ROUNDS:
        num_rounds += 1
        roots = _split_modules(graph, _tune_nodes(graph, roots, threads), threads)
        roots = _merge_modules(graph, roots, seed + num_rounds, threads)
        tuned = _tune_submodules(graph, roots, searched, seed + num_rounds, threads)
        roots, searched = tuned, roots
        before, bits = bits, _codelength(graph, roots, threads)
        if not before - bits > LEAST_IMPROVEMENT * before:
            break
    return roots, num_rounds


def _modules(graph: _Graph, roots: Array, num_rounds: int, threads: int) -> WalkModules:
    num_modules = int(np.count_nonzero(roots == np.arange(len(roots))))
    return WalkModules(roots, num_modules, _codelength(graph, roots, threads), num_rounds)


def join_modules(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    weights: NDArray[np.float32],
    roots_N: NDArray[np.int32],
    *,
    threads: int = 1,
    seed: int = 0,
) -> WalkModules:
    """Join whole modules of a graph where that saves bits; ``roots_N``: the lowest vertex id of each vertex's module.

    Otherwise as ``map_equation``.
    """
    graph = _walk(indptr, indices, weights, threads)
    return _modules(graph, _merge_modules(graph, roots_N, seed % _MOST_SEEDS, threads), 0, threads)


def codelength(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    weights: NDArray[np.float32],
    labels_N: NDArray[Any],
    *,
    threads: int = 1,
) -> float:
    """Compute the two-level map equation of a clustering of an undirected weighted graph, in bits per step.

    L = plogp(q) − 2 Σ_m plogp(q_m) + Σ_m plogp(q_m + p_m) − Σ_i plogp(p_i) with plogp(x) = x log2 x, p_i the share of
    all weights in row i, p_m its sum over a module, q_m the share in rows of the module and columns outside it, q its
    sum (Rosvall and Bergstrom, PNAS 105, 1118, 2008; their expanded form, with the flow of undirected links).
    ``labels_N``: any integers. Graph and errors as for ``map_equation``; 0 for a graph without weight.
    """
    graph = _walk(indptr, indices, weights, threads)
    if np.shape(labels_N) != (len(indptr) - 1,):
        raise DataError(f"codelength: labels of shape {np.shape(labels_N)} for {len(indptr) - 1} vertices")
    labels = np.unique(labels_N, return_inverse=True)[1].astype(np.int32)
    return _codelength(graph, labels, threads)


@dataclass(frozen=True)
class _Graph:
    """A level of the search: its links, the flow of each node, and each node's flow to other nodes."""

    indptr: Array
    indices: Array
    weights: Array
    scale: float
    flow_n: Array
    out_n: Array

    @property
    def links(self) -> tuple[Array, Array, Array]:
        return self.indptr, self.indices, self.weights

    def __len__(self) -> int:
        return len(self.flow_n)


def _check_graph(indptr: Array, indices: Array, weights: Array, threads: int) -> None:
    wanted = {"indptr": (indptr, np.int64), "indices": (indices, np.int32), "weights": (weights, np.float32)}
    for name, (array, dtype) in wanted.items():
        if array.ndim != 1 or array.dtype != dtype:
            raise DataError(f"map equation: expected {name} 1-d of {np.dtype(dtype)}, got {array.dtype} {array.shape}")
    if not len(indptr) or indptr[0] != 0 or len(indices) != indptr[-1] or len(weights) != indptr[-1]:
        raise DataError(
            f"map equation: indptr of {len(indptr)} entries asks for {indptr[-1] if len(indptr) else 'no'} links from "
            f"0, got {len(indices)} indices and {len(weights)} weights"
        )
    if (np.diff(indptr) < 0).any():
        raise DataError("map equation: indptr decreases")
    tiles = tile_bounds(0, len(indices), TILE_VERTICES << 5)
    wrong = [
        link
        for link in map_tiles(lambda tile: find_wrong_link(indices, weights, len(indptr) - 1, *tile), tiles, threads)
        if link >= 0
    ]
    if wrong:
        raise DataError(
            f"map equation: link {wrong[0]} goes to vertex {indices[wrong[0]]} of {len(indptr) - 1} with weight "
            f"{weights[wrong[0]]}; expected one of the vertices and a finite number"
        )


def _walk(indptr: Array, indices: Array, weights: Array, threads: int) -> _Graph:
    """Check a graph, and give it with the stationary flow of an undirected walk: each vertex's share of all weights."""
    _check_graph(indptr, indices, weights, threads)
    num_vertices = len(indptr) - 1
    strengths, out = np.zeros(num_vertices), np.zeros(num_vertices)
    map_tiles(
        lambda tile: add_strengths(indptr, indices, weights, *tile, strengths, out),
        tile_bounds(0, num_vertices, TILE_VERTICES),
        threads,
    )
    total = float(strengths.sum())
    scale = 1 / total if total > 0 else 0.0
    return _Graph(indptr, indices, weights, scale, strengths * scale, out * scale)


def _search_blocks(graph: _Graph, seed: int, threads: int) -> Array:
    """Find modules in each block of vertices alone, taking the block as a fair sample of the graph."""
    num_vertices = len(graph)
    vertices = np.arange(num_vertices, dtype=np.int32)
    starts = np.append(np.arange(0, num_vertices, BLOCK_VERTICES), num_vertices)
    shares = np.array([graph.flow_n[a:b].sum() for a, b in pairwise(starts)])
    asked = shares > 0
    return _search_parts(graph, (vertices, starts), asked, np.zeros(len(shares)), shares, MAX_LEVELS, seed, threads)


def _search_parts(
    graph: _Graph,
    parts: tuple[Array, Array],
    asked_P: Array,
    other_exit_P: Array,
    share_P: Array,
    max_levels: int,
    seed: int,
    threads: int,
) -> Array:
    """Search parts (members, starts) alone; give each node its module's lowest node."""
    members, starts = parts
    positions, modules = np.empty_like(members), np.empty_like(members)
    positions[members] = np.arange(len(members), dtype=np.int32)
    map_tiles(
        lambda tile: solve_parts(
            *graph.links,
            graph.scale,
            graph.flow_n,
            graph.out_n,
            members,
            positions,
            starts,
            *tile,
            asked_P,
            other_exit_P,
            share_P,
            seed,
            max_levels,
            modules,
        ),
        _cut_parts(starts),
        threads,
    )
    return _name_by_lowest(modules, members, starts)


def _merge_modules(graph: _Graph, roots: Array, seed: int, threads: int) -> Array:
    """Move whole modules, then modules of modules, until nothing moves."""
    level, numbers, firsts = _aggregate(graph, roots, threads)
    merged = solve_graph(*level.links, level.scale, level.flow_n, level.out_n, 0.0, 1.0, seed, MAX_LEVELS)
    return _lowest(merged, firsts)[numbers]


def _tune_nodes(graph: _Graph, roots: Array, threads: int) -> Array:
    """Move single nodes until no move saves bits."""
    num_nodes = len(graph)
    labels = roots.copy()
    flow_M, exit_M = _module_flows(graph, labels, threads)
    size_M = np.bincount(labels, minlength=num_nodes).astype(np.int32)
    free, unused = np.empty(num_nodes, np.int32), np.flatnonzero(size_M == 0)
    free[: len(unused)], num_free = unused, len(unused)
    totals = np.array([exit_M.sum(), 0.0, 0.0])
    state = (*graph.links, graph.scale, graph.flow_n, graph.out_n, labels, flow_M, exit_M, size_M, totals)
    active, wanted = np.ones(num_nodes, np.bool_), np.empty(num_nodes, np.bool_)
    tiles = tile_bounds(0, num_nodes, TILE_VERTICES)
    for _ in range(MAX_PASSES):
        map_tiles(lambda tile: propose_moves(*state, *tile, active, wanted), tiles, threads)
        nodes = np.flatnonzero(wanted).astype(np.int32)
        active[:] = wanted
        num_moved, num_free = move_nodes(*state, nodes, active, free, num_free)
        if num_moved == 0:
            break
    return labels


def _tune_submodules(graph: _Graph, roots: Array, searched: Array | None, seed: int, threads: int) -> Array:
    """Search each module alone for submodules, move these, then whole modules.

    A module that was already one in ``searched`` stays in one piece.
    """
    numbers, num_modules = number_modules(roots, len(graph))
    members, starts = order_members(numbers, num_modules)
    _, exit_M = _module_flows(graph, numbers, threads)
    asked = np.ones(num_modules, np.bool_)
    if searched is not None:
        moved = roots != searched
        asked[:] = False
        asked[numbers[moved]] = True
        asked[numbers[searched[moved]]] = True
    module_P, starts = _cut_blocks(starts)
    pieces = _search_parts(
        graph,
        (members, starts),
        asked[module_P],
        (exit_M.sum() - exit_M)[module_P],
        np.ones(len(module_P)),
        1,
        seed,
        threads,
    )
    level, numbers, firsts = _aggregate(graph, pieces, threads)
    tuned = _tune_nodes(level, number_modules(roots[firsts], len(graph))[0], threads)
    return _lowest(_merge_modules(level, tuned, seed, threads), firsts)[numbers]


def _split_modules(graph: _Graph, roots: Array, threads: int) -> Array:
    """Make each connected piece of a module a module, which never adds a bit.

    Separating two pieces saves P h(P₁/P) − 2 q h(q₁/q) with P = p + q ≥ 2 q and the binary entropy h: at least 0.
    """
    numbers, num_modules = number_modules(roots, len(graph))
    members, starts = order_members(numbers, num_modules)
    parents = np.arange(len(graph), dtype=np.int32)
    map_tiles(
        lambda tile: _unite_inside(*graph.links, numbers, members, starts, *tile, parents), _cut_parts(starts), threads
    )
    flatten(parents)
    return parents


def _fall_back(graph: _Graph, roots: Array, threads: int) -> Array:
    """Replace the modules by the connected components, or by vertices alone, if their codelength is less."""
    level, numbers, firsts = _aggregate(graph, roots, threads)
    parents = np.arange(len(level), dtype=np.int32)
    _unite_inside(*level.links, np.zeros_like(parents), parents, np.array([0, len(level)]), 0, 1, parents)
    flatten(parents)
    joined = _sum_by_label(parents, level.flow_n, len(level))
    bits = [
        sum_bits(level.flow_n, level.out_n, graph.flow_n),
        sum_bits(joined, np.zeros_like(joined), graph.flow_n),
        sum_bits(graph.flow_n, graph.out_n, graph.flow_n),
    ]
    choices = [roots, firsts[parents][numbers], np.arange(len(graph), dtype=np.int32)]
    return choices[int(np.argmin(bits))]


def _aggregate(graph: _Graph, roots: Array, threads: int) -> tuple[_Graph, Array, Array]:
    """Make each module a node; give also each node's module number and each module's lowest node."""
    numbers, num_modules = number_modules(roots, len(graph))
    members, starts = order_members(numbers, num_modules)
    tiles = map_tiles(
        lambda tile: link_modules(*graph.links, numbers, members, starts, *tile), _cut_parts(starts), threads
    )
    empty = (np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    degrees, indices, weights = (np.concatenate(column) for column in zip(empty, *tiles, strict=True))
    out = np.zeros(num_modules)
    indptr = np.cumsum(degrees)
    add_strengths(indptr, indices, weights, 0, num_modules, np.empty(num_modules), out)
    flow = _sum_by_label(numbers, graph.flow_n, num_modules)
    return _Graph(indptr, indices, weights, graph.scale, flow, out * graph.scale), numbers, members[starts[:-1]]


def _module_flows(graph: _Graph, labels: Array, threads: int) -> tuple[Array, Array]:
    """Give modules' flow and exit flow, indexed by label."""
    leaving = np.empty(len(graph))
    map_tiles(
        lambda tile: add_leaving(*graph.links, labels, *tile, leaving),
        tile_bounds(0, len(graph), TILE_VERTICES),
        threads,
    )
    return _sum_by_label(labels, graph.flow_n, len(graph)), _sum_by_label(labels, leaving * graph.scale, len(graph))


def _sum_by_label(labels: Array, values: Array, num_labels: int) -> Array:
    return np.bincount(labels, values, num_labels).astype(np.float64, copy=False)  # an empty array would give integers


def _codelength(graph: _Graph, labels: Array, threads: int) -> float:
    flow_M, exit_M = _module_flows(graph, labels, threads)
    return float(sum_bits(flow_M, exit_M, graph.flow_n))


def _cut_parts(starts: Array) -> list[tuple[int, int]]:
    """Cut parts into runs of about ``TILE_VERTICES`` nodes."""
    cuts = np.searchsorted(starts, np.arange(0, starts[-1] + TILE_VERTICES, TILE_VERTICES))
    cuts = np.unique(np.minimum(cuts, len(starts) - 1))
    return [(int(a), int(b)) for a, b in pairwise(cuts)]


def _cut_blocks(starts: Array) -> tuple[Array, Array]:
    """Cut parts into blocks, because a large module would not fit memory twice: (the part of each block, starts)."""
    num_blocks = -(-np.diff(starts) // BLOCK_VERTICES)
    part = np.repeat(np.arange(len(num_blocks)), num_blocks)
    number = np.arange(len(part)) - np.repeat(np.cumsum(num_blocks) - num_blocks, num_blocks)
    return part, np.append(starts[part] + number * BLOCK_VERTICES, starts[-1])


def _lowest(labels: Array, names: Array) -> Array:
    """Name each node's module by the entry of ``names`` (ascending) of the module's lowest node."""
    numbers, num_modules = number_modules(labels, len(labels))
    members, starts = order_members(numbers, num_modules)
    return names[members[starts[:-1]]][numbers]


@njit(nogil=True, cache=True)
def _name_by_lowest(modules, members, starts):  # type: ignore[no-untyped-def]
    """Replace module numbers, given within each part by first member, by the module's lowest node."""
    roots, firsts = np.empty_like(modules), np.empty(len(modules), np.int32)
    for part in range(len(starts) - 1):
        known = 0
        for position in range(starts[part], starts[part + 1]):
            node = members[position]
            if modules[node] == known:
                firsts[known] = node
                known += 1
            roots[node] = firsts[modules[node]]
    return roots


@njit(nogil=True, cache=True)
def _unite_inside(indptr, indices, weights, numbers, members, starts, first, last, parents):  # type: ignore[no-untyped-def]
    for position in range(starts[first], starts[last]):
        node = members[position]
        for entry in range(indptr[node], indptr[node + 1]):
            other = indices[entry]
            if other < node and weights[entry] > 0 and numbers[other] == numbers[node]:
                union(parents, node, other)
