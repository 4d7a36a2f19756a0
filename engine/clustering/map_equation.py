"""Clusters that describe a random walk on a weighted graph in the fewest bits: the two-level map equation.

The search is local moving and aggregation (Rosvall and Bergstrom, PNAS 2008), then rounds of single vertices' and
submodules' moves (Rosvall, Axelsson and Bergstrom, EPJ ST 178, 2009) until a round saves little.

Vertices move in turns, all of a turn at once (``module_rounds``; as Hamann, Strasser, Wagner and Zeitz, Euro-Par 2018,
do), so they may lie in ranges that several processes hold. Modules move one after another, as nodes of a graph that is
small enough for one process. The result is the same bytes for any ranges and threads.
Shape suffixes: N vertices, n nodes of a level, M modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.module_flows import plogp, sum_bits
from engine.clustering.module_moves import move_all, number_modules, order_members, solve_graph, sum_modules
from engine.clustering.module_rounds import BIT_UNITS, TURNS, ModuleRange
from engine.clustering.union_find import compact_ids, flatten, union_edges
from engine.errors import DataError
from engine.storage.companions import Companions, CompanionsHere

MAX_ROUNDS = 20
MAX_CYCLES = 64
_MOST_SEEDS = 2**62  # a seed below it plus the number of rounds fits an int64
LEAST_IMPROVEMENT = 1e-5  # a round that saves a smaller share of the codelength is the last
FEW_MOVES = 0.002  # a cycle in which a smaller share of the vertices moves is the last
SUM_BITS = 52  # of the sum of all weights, in units of the rounding
LEAST_FLOAT32 = 2.0**-149

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class WalkModules:
    """A graph's modules: ``roots_N``, the lowest vertex id of each vertex's module (int32), and their codelength.

    ``num_edges``: of the graph.
    """

    roots_N: NDArray[np.int32]
    num_modules: int
    codelength: float
    num_rounds: int
    num_edges: int


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
    The result is equal for any number of threads and any order of the rows' links. ``seed`` sets the turns in which
    vertices move. Memory besides the graph: about 150 bytes per vertex, 4 per link, and 12 per pair of linked modules.
    Raises ``DataError`` for arrays that disagree, ids outside the vertices and weights that are not finite.
    """
    return find_modules(in_one_range(indptr, indices, weights.copy(), threads), seed)


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

    Vertices move, modules merge, and modules that have changed are searched for parts, until a round saves little.
    Graph and errors as for ``map_equation``.
    """
    vertices = VertexModules(in_one_range(indptr, indices, weights.copy(), threads))
    vertices.place(roots_N, searched=True)
    seed %= _MOST_SEEDS
    vertices.merge(seed)
    return vertices.tune(seed)


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
    vertices = VertexModules(in_one_range(indptr, indices, weights.copy(), threads))
    if np.shape(labels_N) != (len(indptr) - 1,):
        raise DataError(f"codelength: labels of shape {np.shape(labels_N)} for {len(indptr) - 1} vertices")
    _, firsts, numbers = np.unique(labels_N, return_index=True, return_inverse=True)
    vertices.place(firsts[numbers])
    return vertices.codelength()


def find_modules(ranges: Companions, seed: int) -> WalkModules:
    """Find modules of a graph in ``ModuleRange`` companions, as ``map_equation`` does."""
    seed %= _MOST_SEEDS
    vertices = VertexModules(ranges)
    vertices.place(None)
    vertices.move(seed)
    vertices.split()
    vertices.merge(seed)
    return vertices.tune(seed)


def join_modules(ranges: Companions, roots_N: NDArray[np.int32], seed: int) -> WalkModules:
    """Join whole modules of a graph in ``ModuleRange`` companions where that saves bits; ``roots_N`` as they are given.

    ``roots_N``: the lowest vertex id of each vertex's module.
    """
    vertices = VertexModules(ranges)
    vertices.place(roots_N)
    vertices.merge(seed % _MOST_SEEDS)
    return vertices.found(0)


def in_one_range(indptr: Array, indices: Array, weights: Array, threads: int) -> Companions:
    """Check a graph's arrays, and hold it in one range in this process, which changes the weights."""
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
    return CompanionsHere([ModuleRange(0, len(indptr) - 1, indptr, indices, weights, threads=threads)])


@dataclass(frozen=True)
class _Level:
    """A graph whose nodes are modules: its links, the flow of each node, and each node's flow to other nodes.

    ``names``: each module's name, ascending. ``parents``: the name of what it is a part of, if it is one.
    """

    indptr: Array
    indices: Array
    weights: Array
    scale: float
    flow_n: Array
    out_n: Array
    names: Array
    parents: Array

    @property
    def walk(self) -> tuple[Any, ...]:
        return self.indptr, self.indices, self.weights, self.scale, self.flow_n, self.out_n


class VertexModules:
    """The modules of a graph whose vertices lie in ``ModuleRange`` companions, numbered as their ranges are."""

    def __init__(self, ranges: Companions) -> None:
        """Make all sums of weights exact; raises ``DataError`` for links that lead nowhere."""
        self._ranges = ranges
        looked = self._all("look")
        num_links = sum(count for _, count in looked)
        self._num_edges = num_links // 2
        most = max(top for top, _ in looked) * max(1, num_links)
        total = sum(self._all("round", max(2.0 ** (frexp(most)[1] - SUM_BITS), LEAST_FLOAT32)))
        self._scale = 2.0 ** -frexp(total)[1] if total > 0 else 0.0
        vertices, alone, out = (sum(column) for column in zip(*self._all("scale", self._scale), strict=True))
        # Flows add up to this share of 1. The terms of the map equation that are linear in flows add up to 0, so it is
        # the value at these flows over the share.
        self._share = total * self._scale or 1.0
        self._bits_of_vertices = vertices / BIT_UNITS
        self._bits_alone = alone / BIT_UNITS + float(plogp(out))

    def place(self, roots_N: Array | None, *, searched: bool = False) -> None:
        """Set the modules, each vertex alone for ``None``; ``searched``: look for parts only in those that change."""
        self._all("place", roots_N)
        self._count()
        if searched:
            self._all("take_as_searched")

    def codelength(self) -> float:
        """Return the map equation of the modules."""
        (bits,) = self._ranges.wait([self._ranges.begin(0, "bits")])
        return float((bits - self._bits_of_vertices) / self._share)

    def move(self, seed: int, *, everywhere: bool = True) -> None:
        """Move vertices, a turn's all at once, until few still move; ``everywhere`` as ``begin_moves`` has it."""
        ranges, numbers = self._ranges, range(len(self._ranges))
        num_vertices = len(self._roots())
        self._all("begin_moves", seed, everywhere)
        moved = 0
        for turn in range(MAX_CYCLES * TURNS):
            moves = [ranges.begin(number, "propose", turn) for number in numbers]
            moved += ranges.wait([ranges.begin(number, "hear", *moves) for number in numbers])[0]
            changes = [ranges.begin(number, "weigh", number) for number in numbers]
            ranges.wait([ranges.begin(number, "move", turn, *changes) for number in numbers])
            if turn % TURNS == TURNS - 1:
                if moved <= FEW_MOVES * num_vertices:
                    break
                moved = 0

    def split(self) -> None:
        """Make each connected piece of a module a module, which never adds a bit.

        Separating two pieces saves P h(P₁/P) − 2 q h(q₁/q) with P = p + q ≥ 2 q and the binary entropy h: at least 0.
        """
        a, b = (np.concatenate(column) for column in zip(*self._all("find_pieces"), strict=True))
        names, first, second = compact_ids(a, b)
        parents = np.arange(len(names), dtype=np.int32)
        union_edges(parents, first, second)
        flatten(parents)
        renamed = parents != np.arange(len(names))
        pieces = names[renamed], names[parents[renamed]]
        labels = [self._ranges.begin(number, "tell_pieces", *pieces) for number in range(len(self._ranges))]
        self._all("take_labels", *labels)
        self._count()

    def merge(self, seed: int) -> None:
        """Move whole modules, then modules of modules, until nothing moves."""
        level = self._level()
        self._join(level, solve_graph(*level.walk, np.arange(len(level.names), dtype=np.int32), seed))

    def tune(self, seed: int) -> WalkModules:
        """Move vertices, submodules and modules in rounds until a round saves little; return what is then found."""
        bits, num_rounds = self.codelength(), 0
        while num_rounds < MAX_ROUNDS:
            num_rounds += 1
            known = all(self._all("keep"))
            self.move(seed + num_rounds, everywhere=not known)
            self.split()
            self.merge(seed + num_rounds)
            self._tune_submodules(seed + num_rounds)
            before, bits = bits, self.codelength()
            if not bits < before:
                self._all("give_back")
                self._count()
            if not before - bits > LEAST_IMPROVEMENT * before:
                break
        self.split()
        self.fall_back()
        return self.found(num_rounds)

    def found(self, num_rounds: int) -> WalkModules:
        """Return the modules, after so many rounds of tuning."""
        roots = self._roots()
        num_modules = int(np.count_nonzero(roots == np.arange(len(roots))))
        return WalkModules(roots, num_modules, self.codelength(), num_rounds, self._num_edges)

    def _tune_submodules(self, seed: int) -> None:
        """Search each module alone for submodules, move these, then whole modules."""
        self._all("open_modules")
        self._count()
        self.move(seed)
        self.split()
        self._all("close_modules")
        level = self._level()
        nodes = np.arange(len(level.names), dtype=np.int32)
        labels = np.unique(level.parents, return_inverse=True)[1].astype(np.int32)
        move_all(*level.walk, labels, nodes)
        self._join(level, solve_graph(*level.walk, labels, seed))

    def fall_back(self) -> None:
        """Replace the modules by the connected components, or by vertices alone, if their codelength is less."""
        level = self._level()
        parents = np.arange(len(level.names), dtype=np.int32)
        union_edges(parents, np.repeat(parents, np.diff(level.indptr)), level.indices)
        flatten(parents)
        joined = np.bincount(parents, level.flow_n, len(parents)).astype(np.float64, copy=False)
        bits = [sum_bits(level.flow_n, level.out_n), sum_bits(joined, np.zeros_like(joined)), self._bits_alone]
        best = int(np.argmin(bits))
        if best == 1:
            self._join(level, parents)
        elif best == 2:
            self.place(None)

    def _level(self) -> _Level:
        """Make each module a node."""
        (found,) = self._ranges.wait([self._ranges.begin(0, "modules")])
        names, flow_n, out_n, parents = found
        numbers = np.empty(int(names.max(initial=-1)) + 1, np.int32)
        numbers[names] = np.arange(len(names), dtype=np.int32)
        sources, targets, weights = (np.concatenate(column) for column in zip(*self._all("link"), strict=True))
        indptr, indices, summed = _sum_links(len(names), numbers[sources], numbers[targets], weights)
        return _Level(indptr, indices, summed, self._scale, flow_n, out_n, names, parents)

    def _join(self, level: _Level, labels_n: Array) -> None:
        """Join the modules that have one label; the lowest name stands."""
        numbers, num_modules = number_modules(labels_n, len(labels_n))
        members, starts = order_members(numbers, num_modules)
        firsts = members[starts[:-1]]
        flow_n, exit_n = np.zeros(len(numbers)), np.zeros(len(numbers))
        flow_n[firsts], exit_n[firsts] = sum_modules(*level.walk[:5], numbers, num_modules)
        self._all("join", level.names, level.names[firsts][numbers], flow_n, exit_n)

    def _count(self) -> None:
        told = [self._ranges.begin(number, "tell_modules") for number in range(len(self._ranges))]
        self._ranges.wait(
            [self._ranges.begin(number, "take_modules", number, *told) for number in range(len(self._ranges))]
        )

    def _roots(self) -> Array:
        (roots,) = self._ranges.wait([self._ranges.begin(0, "labels")])
        return np.asarray(roots)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._ranges.wait(
            [self._ranges.begin(number, method, *arguments) for number in range(len(self._ranges))]
        )


@njit(nogil=True, cache=True)
def _sum_links(num_nodes, sources, targets, weights):  # type: ignore[no-untyped-def]
    """Build a CSR of links between nodes, rows and columns ascending; the weights of links that repeat are added."""
    for _ in range(2):  # sorted by target, then by source, which keeps the targets' order
        starts = np.zeros(num_nodes + 1, np.int64)
        for target in targets:
            starts[target + 1] += 1
        for node in range(num_nodes):
            starts[node + 1] += starts[node]
        places = starts[:-1].copy()
        first, second, values = np.empty_like(sources), np.empty_like(targets), np.empty_like(weights)
        for link in range(len(targets)):
            place = places[targets[link]]
            places[targets[link]] += 1
            first[place], second[place], values[place] = sources[link], targets[link], weights[link]
        sources, targets, weights = second, first, values
    indptr, filled = np.zeros(num_nodes + 1, np.int64), 0
    for link in range(len(targets)):
        if link and sources[link] == sources[link - 1] and targets[link] == targets[link - 1]:
            weights[filled - 1] += weights[link]
            continue
        targets[filled], weights[filled] = targets[link], weights[link]
        indptr[sources[link] + 1] += 1
        filled += 1
    for node in range(num_nodes):
        indptr[node + 1] += indptr[node]
    return indptr, targets[:filled].copy(), weights[:filled].copy()
