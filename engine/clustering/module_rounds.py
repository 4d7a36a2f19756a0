"""Modules of a graph whose vertices lie in ranges: all vertices of a turn decide at once, from what was before it.

A search moves vertices in cycles of ``TURNS`` turns. A hash of the vertex and the cycle says which turn is a vertex's.
In a turn each vertex finds the module in which it would save most if no other vertex moved. Then all of them move. So a
turn needs no order, and the ranges may lie in processes of their own.

Every range holds the module of every vertex, and every module's flow, exit flow and size. It has the links of its own
vertices alone. After a turn the ranges tell each other who moved, and how much that changes the modules' flows. All
weights are multiples of one power of two, and their sum has fewer than 53 bits. Sums of flows are therefore exact in
float64, whatever their order, and the result is the same bytes for any ranges, threads and order of messages.
Legend: N vertices, n vertices of a range, M modules (named by a vertex, so below N), P modules that are searched for
parts, S slots of a hash table.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit

from engine.clustering.module_flows import add_leaving, find_wrong_link, plogp, round_weights, take_strengths
from engine.clustering.module_moves import (
    LEAST_GAIN,
    clear_table,
    gather_links,
    link_modules,
    make_table,
    order_members,
    table_slots,
)
from engine.clustering.union_find import flatten, union
from engine.errors import DataError
from engine.tiles import map_tiles, tile_bounds

TURNS = 4  # in a cycle; a power of two. With fewer, more neighbours move at once; with more, a cycle takes longer
TILE_VERTICES = 1 << 14
BIT_UNITS = 2.0**55  # a bit in these units is an integer, so that sums over vertices have no order

Array = np.ndarray[Any, Any]
_NOT_SEARCHED = np.empty(0, np.int32)


class ModuleRange:
    """The vertices ``start`` to ``start + n`` in a search for modules. ``VertexModules`` calls it.

    ``indptr`` (n + 1), ``indices`` and ``weights``: the rows of these vertices of a symmetric CSR, whose ids are those
    of the whole graph. The weights are changed: they are rounded, and those of self loops become 0. Memory besides the
    links: 60 bytes per vertex of the graph and 30 per vertex of the range.
    """

    def __init__(
        self, start: int, num_vertices: int, indptr: Array, indices: Array, weights: Array, *, threads: int = 1
    ) -> None:
        self._start, self._num_vertices, self._threads = start, num_vertices, threads
        self._indptr, self._indices, self._weights = indptr, indices, weights
        self._own = slice(start, start + len(indptr) - 1)
        self._tiles = tile_bounds(0, len(indptr) - 1, TILE_VERTICES)
        self._labels_N = np.arange(num_vertices, dtype=np.int32)
        self._parents_N = self._kept_N = self._next_N = _NOT_SEARCHED

    @property
    def _links(self) -> tuple[Array, Array, Array]:
        return self._indptr, self._indices, self._weights

    def look(self) -> tuple[float, int]:
        """Return the greatest weight and the number of links; raises ``DataError`` for links that lead nowhere."""
        tiles = tile_bounds(0, len(self._indices), TILE_VERTICES << 6)
        found = map_tiles(
            lambda tile: find_wrong_link(self._indices, self._weights, self._num_vertices, *tile), tiles, self._threads
        )
        wrong = [link for link, _ in found if link >= 0]
        if wrong:
            raise DataError(
                f"map equation: link {wrong[0]} goes to vertex {self._indices[wrong[0]]} of {self._num_vertices} with "
                f"weight {self._weights[wrong[0]]}; expected one of the vertices and a finite number"
            )
        return max((float(top) for _, top in found), default=0.0), len(self._indices)

    def round(self, unit: float) -> float:
        """Make all weights multiples of ``unit``; return the sum of the range's."""
        num = len(self._indptr) - 1
        self._flow_n, self._out_n = np.empty(num), np.empty(num)

        def strengths(tile: tuple[int, int]) -> None:
            round_weights(self._weights[self._indptr[tile[0]] : self._indptr[tile[1]]], unit)
            take_strengths(*self._links, self._start, *tile, self._flow_n, self._out_n)

        map_tiles(strengths, self._tiles, self._threads)
        return float(self._flow_n.sum())

    def scale(self, scale: float) -> tuple[int, int, float]:
        """Take the flow of a unit of weight, a power of two.

        Returns, in ``BIT_UNITS``, the bits of the vertices and of the modules of one vertex each, and these modules'
        exit flow.
        """
        self._scale = scale
        self._flow_n *= scale
        self._out_n *= scale
        self._flow_M, self._exit_M = np.empty(self._num_vertices), np.empty(self._num_vertices)
        self._size_M, self._bits_M = np.empty(self._num_vertices, np.int32), np.empty(self._num_vertices)
        self._seen_n = np.zeros(len(self._flow_n), np.int16)
        self._moved_N = np.zeros(self._num_vertices, np.int16)
        vertices, alone = _count_bits(self._flow_n, self._out_n)
        return int(vertices), int(alone), float(self._out_n.sum())

    def place(self, labels_N: Array | None) -> None:
        """Set each vertex's module, named by a vertex of it; ``None`` puts every vertex alone."""
        if labels_N is None:
            self._labels_N = np.arange(self._num_vertices, dtype=np.int32)
        else:
            self._labels_N = np.array(labels_N, np.int32)

    def labels(self) -> Array:
        """Return the module of each vertex."""
        return self._labels_N

    def tell_modules(self) -> tuple[Array, ...]:
        """Give the modules of own vertices, and what these add to their flow, exit flow and size."""
        leaving_n = np.empty(len(self._flow_n))
        map_tiles(
            lambda tile: add_leaving(*self._links, self._labels_N, self._start, *tile, leaving_n),
            self._tiles,
            self._threads,
        )
        for values in (self._flow_M, self._exit_M, self._size_M):
            values[:] = 0
        leaving_n *= self._scale
        _add_modules(self._labels_N[self._own], self._flow_n, leaving_n, self._flow_M, self._exit_M, self._size_M)
        found = np.flatnonzero(self._size_M).astype(np.int32)
        return found, self._flow_M[found], self._exit_M[found], self._size_M[found]

    def take_modules(self, number: int, *messages: tuple[Array, ...]) -> None:
        """Add what the other ranges gave; ``number`` is the own message's."""
        for other, (found, flows, exits, sizes) in enumerate(messages):
            if other != number:
                self._flow_M[found] += flows
                self._exit_M[found] += exits
                self._size_M[found] += sizes
        self._total_P = np.array([self._exit_M.sum()])
        _set_bits(self._flow_M, self._exit_M, self._bits_M)

    def bits(self) -> float:
        """Return the bits that the modules cost, without the vertices' own."""
        return float(self._bits_M.sum() + plogp(self._total_P[0]))

    def keep(self) -> bool:
        """Remember the modules, for ``give_back``; return whether others were kept before.

        Then the next moves begin with vertices that changed modules since, and their neighbours.
        """
        before_N, self._kept_N = self._kept_N, self._labels_N.copy()
        if len(before_N):
            self._moved_N[:] = before_N != self._labels_N
        return len(before_N) > 0

    def give_back(self) -> None:
        """Return to the modules that were kept."""
        self._labels_N = self._kept_N

    def take_as_searched(self) -> None:
        """Take it that all modules were searched for parts."""
        self._parents_N = self._labels_N.copy()

    def open_modules(self) -> None:
        """Begin to search in modules for parts: put their vertices alone. Those that were searched before stay whole.

        Until ``close_modules`` vertices move inside their module alone.
        """
        before_N, self._parents_N = self._parents_N, self._labels_N
        asked_P = np.ones(self._num_vertices, np.bool_)
        if len(before_N):
            changed = self._parents_N != before_N
            asked_P[:] = False
            asked_P[self._parents_N[changed]] = True
            asked_P[self._parents_N[before_N[changed]]] = True
        self._asked_P = asked_P
        self._labels_N = np.where(asked_P[self._parents_N], np.arange(self._num_vertices), self._parents_N).astype(
            np.int32
        )
        self._elsewhere_P = self._exit_M.sum() - self._exit_M

    def close_modules(self) -> None:
        """End the search for parts."""
        del self._asked_P, self._elsewhere_P

    def begin_moves(self, seed: int, everywhere: bool) -> None:
        """Begin to move vertices; ``everywhere``: every vertex is asked at least once."""
        self._seed, inside = seed, hasattr(self, "_asked_P")
        self._searched_N = self._parents_N if inside else _NOT_SEARCHED
        if inside:
            self._total_P = self._elsewhere_P.copy()
            _add_totals(self._size_M, self._exit_M, self._parents_N, self._total_P)
        self._asked = self._asked_P if inside else np.empty(0, np.bool_)
        self._seen_n[:] = 1
        if everywhere:
            self._moved_N[:] = 1
        self._next_N = self._labels_N.copy()

    def propose(self, turn: int) -> tuple[Array, Array]:
        """Give the vertices that move in this turn, and their new modules."""
        modules = self._flow_M, self._exit_M, self._size_M, self._bits_M, self._total_P
        moves = map_tiles(
            lambda tile: _propose(
                *self._links,
                self._scale,
                self._flow_n,
                self._out_n,
                self._start,
                *tile,
                self._labels_N,
                *modules,
                self._searched_N,
                self._asked,
                self._moved_N,
                self._seen_n,
                turn,
                self._seed,
            ),
            self._tiles,
            self._threads,
        )
        none = (np.empty(0, np.int32), np.empty(0, np.int32))
        vertices, targets = (np.concatenate(column) for column in zip(none, *moves, strict=True))
        return vertices, targets

    def hear(self, *moves: tuple[Array, Array]) -> int:
        """Take the moves of all ranges; return how many there are."""
        self._moves = moves
        for vertices, targets in moves:
            self._next_N[vertices] = targets
        return sum(len(vertices) for vertices, _ in moves)

    def weigh(self, number: int) -> tuple[Array, Array, Array]:
        """Give of each own vertex that moves its flow, and what it adds to the exit flow of its old and new module."""
        nodes = self._moves[number][0] - self._start
        old, new = np.empty(len(nodes)), np.empty(len(nodes))
        map_tiles(
            lambda tile: _weigh_moves(
                *self._links, self._scale, self._start, nodes, *tile, self._labels_N, self._next_N, old, new
            ),
            tile_bounds(0, len(nodes), TILE_VERTICES),
            self._threads,
        )
        return self._flow_n[nodes], old, new

    def move(self, turn: int, *changes: tuple[Array, Array, Array]) -> None:
        """Make all moves of a turn."""
        modules = self._flow_M, self._exit_M, self._size_M, self._bits_M, self._total_P
        for (vertices, targets), change in zip(self._moves, changes, strict=True):
            _move(vertices, targets, *change, self._labels_N, *modules, self._searched_N, self._moved_N, turn)
        for vertices, targets in self._moves:
            _renew_bits(vertices, targets, self._next_N, self._labels_N, *modules[:2], self._bits_M)
        self._moves = ()

    def find_pieces(self) -> tuple[Array, Array]:
        """Name own vertices by the lowest of their piece: what hangs together in the range inside their module.

        Returns pairs of vertices of modules that have vertices in other ranges: links into these, and each end with the
        name of its piece here.
        """
        labels_n = self._labels_N[self._own]
        own_M = np.zeros(self._num_vertices, np.int32)
        _count_members(labels_n, own_M)
        parents_n = np.arange(len(labels_n), dtype=np.int32)
        inside = self._start, self._labels_N, parents_n
        # Tiles unite their own vertices side by side, because no two of them touch the same parents.
        map_tiles(lambda tile: _unite_inside(*self._links, *inside, *tile, True), self._tiles, self._threads)
        for tile in self._tiles:
            _unite_inside(*self._links, *inside, *tile, False)
        flatten(parents_n)
        self._pieces_n = parents_n + np.int32(self._start)
        crosses_n = own_M[labels_n] < self._size_M[labels_n]
        if not crosses_n.any():
            return np.empty(0, np.int32), np.empty(0, np.int32)
        crossing = *self._links, self._start, self._labels_N, crosses_n
        links = np.empty((2, _crossing_links(*crossing, np.empty((2, 0), np.int32))), np.int32)
        _crossing_links(*crossing, links)
        a, b = links
        ends = np.unique(np.concatenate([a, self._pieces_n[crosses_n]]))
        return np.concatenate([ends, a]), np.concatenate([self._pieces_n[ends - self._start], b])

    def tell_pieces(self, names: Array, roots: Array) -> Array:
        """Give the piece of each own vertex; ``names`` (ascending) are pieces that belong to other pieces, ``roots``.

        A name of another range's piece is ignored.
        """
        places = np.searchsorted(names, self._pieces_n)
        places[places == len(names)] = 0
        if len(names):
            found = names[places] == self._pieces_n
            self._pieces_n[found] = roots[places[found]]
        return self._pieces_n

    def take_labels(self, *labels: Array) -> None:
        """Set the modules of all vertices, range by range."""
        self._labels_N = np.concatenate(labels)

    def modules(self) -> tuple[Array, Array, Array, Array]:
        """Return the modules, ascending, with their flow, their exit flow, and what they are parts of, if anything."""
        found = np.flatnonzero(self._size_M).astype(np.int32)
        parents = self._parents_N[found] if len(self._parents_N) else found
        return found, self._flow_M[found], self._exit_M[found], parents

    def link(self) -> tuple[Array, Array, Array]:
        """Sum own links between modules: (module, other module, weight), those of a module together."""
        labels_n = self._labels_N[self._own]
        number_M = np.full(self._num_vertices, -1, np.int32)
        number_M[labels_n] = 0
        names = np.flatnonzero(number_M == 0).astype(np.int32)
        number_M[names] = np.arange(len(names), dtype=np.int32)
        members, starts = order_members(number_M[labels_n], len(names))
        del number_M
        tiles = map_tiles(
            lambda tile: link_modules(*self._links, self._labels_N, names, members, starts, *tile, self._num_vertices),
            cut_parts(starts),
            self._threads,
        )
        none = (np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0))
        degrees, others, sums = (np.concatenate(column) for column in zip(none, *tiles, strict=True))
        return np.repeat(names, degrees), others, sums

    def join(self, names: Array, roots: Array, flows: Array, exits: Array) -> None:
        """Join each module of ``names`` to that in ``roots``; flow and exit flow are then those given, by ``names``.

        They are 0 for modules that end.
        """
        root_M = np.arange(self._num_vertices, dtype=np.int32)
        root_M[names] = roots
        self._labels_N = root_M[self._labels_N]
        del root_M
        sizes = self._size_M[names]
        self._size_M[names] = 0
        np.add.at(self._size_M, roots, sizes)
        self._flow_M[names], self._exit_M[names] = flows, exits
        self._total_P = np.array([self._exit_M.sum()])
        _set_bits(self._flow_M, self._exit_M, self._bits_M)


def cut_parts(starts: Array) -> list[tuple[int, int]]:
    """Cut parts, by their first positions and the end, into runs of about ``TILE_VERTICES`` members."""
    cuts = np.searchsorted(starts, np.arange(0, starts[-1] + TILE_VERTICES, TILE_VERTICES))
    cuts = np.unique(np.minimum(cuts, len(starts) - 1))
    return [(int(a), int(b)) for a, b in pairwise(cuts)]


@njit(nogil=True, cache=True)
def _turn_of(vertex, cycle, seed):  # type: ignore[no-untyped-def]
    """Hash a vertex and a cycle to a turn (splitmix64)."""
    mixed = np.uint64(vertex) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(cycle) * np.uint64(0xD1B54A32D192ED03)
    mixed += np.uint64(seed) * np.uint64(0xA0761D6478BD642F)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((mixed ^ (mixed >> np.uint64(31))) & np.uint64(TURNS - 1))


@njit(nogil=True, cache=True)
def _propose(  # type: ignore[no-untyped-def]
    indptr, indices, weights, scale, flow_n, out_n, begin, start, stop, labels, flow_M, exit_M, size_M, bits_M,
    total_P, searched, asked, moved, seen_n, turn, seed,
):  # fmt: skip
    """Find the moves of nodes ``start..stop`` of a range that begins at vertex ``begin``."""
    most = np.int64(0)
    for node in range(start, stop):
        most = max(most, indptr[node + 1] - indptr[node])
    keys_S, sums_S, used = make_table(most)
    vertices, targets = np.empty(stop - start, np.int32), np.empty(stop - start, np.int32)
    inside, count = len(searched) > 0, 0
    for node in range(start, stop):
        vertex = begin + node
        if _turn_of(vertex, turn // TURNS, seed) != turn % TURNS:
            continue
        own = labels[vertex]
        if inside and not asked[searched[vertex]]:
            continue
        since = seen_n[node]
        active, away = moved[vertex] >= since, False
        for entry in range(indptr[node], indptr[node + 1]):
            active |= moved[indices[entry]] >= since
            away |= labels[indices[entry]] != own
            if active and away:
                break
        seen_n[node] = turn + 2
        if not (active and away):
            continue
        size = table_slots(indptr[node + 1] - indptr[node])
        keys, sums = keys_S[:size], sums_S[:size]
        if inside:
            num_used = _gather_inside(indptr, indices, weights, labels, searched, vertex, node, keys, sums, used)
            total = total_P[searched[vertex]]
        else:
            num_used = gather_links(indptr, indices, weights, labels, node, keys, sums, used, np.int64(0))
            total = total_P[0]
        target = _best_module(
            keys, sums, used, num_used, scale, flow_n[node], out_n[node], own, vertex, flow_M, exit_M, size_M, bits_M,
            total,
        )  # fmt: skip
        clear_table(keys, sums, used, num_used)
        if size_M[own] == 1 and target > own and size_M[target] == 1:
            seen_n[node] = turn + 1  # of two vertices alone the higher one moves, or both would change places
            target = own
        if target != own:
            vertices[count], targets[count] = vertex, target
            count += 1
    return vertices[:count].copy(), targets[:count].copy()


@njit(nogil=True, cache=True)
def _gather_inside(indptr, indices, weights, labels, searched, vertex, node, keys_S, sums_S, used):  # type: ignore[no-untyped-def]
    """Add a node's weights to others of its searched module to ``sums_S``, by label; return the slots now used."""
    mask, num_used = len(keys_S) - 1, np.int64(0)
    parent = searched[vertex]
    for entry in range(indptr[node], indptr[node + 1]):
        other, weight = indices[entry], weights[entry]
        if searched[other] != parent or not weight > 0:
            continue
        module = labels[other]
        slot = np.int64((np.uint32(module) * np.uint32(2654435769)) >> np.uint32(15)) & mask
        while keys_S[slot] != module:
            if keys_S[slot] == -1:
                keys_S[slot] = module
                used[num_used] = slot
                num_used += 1
                break
            slot = (slot + 1) & mask
        sums_S[slot] += weight
    return num_used


@njit(nogil=True, cache=True)
def _best_module(  # type: ignore[no-untyped-def]
    keys_S, sums_S, used, num_used, scale, flow, out, own, vertex, flow_M, exit_M, size_M, bits_M, total
):
    """Find the module that a vertex of module ``own`` should be in, from its links in the table.

    A module of its own has the vertex's number, and is open to it while no other vertex has a module of that name. Of
    moves that save the same, the one into the lowest module counts.
    """
    inside = 0.0
    for position in range(num_used):
        if keys_S[used[position]] == own:
            inside = sums_S[used[position]] * scale
    base = -plogp(total) - bits_M[own]
    if size_M[own] > 1:
        left = exit_M[own] - out + 2 * inside
        base += plogp(flow_M[own] - flow + left) - 2 * plogp(left)
    best, target = -max(LEAST_GAIN * flow, 1e-15), own
    if size_M[own] > 1 and size_M[vertex] == 0:
        bits = base + plogp(total + 2 * inside) + plogp(flow + out) - 2 * plogp(out)
        if bits < best:
            best, target = bits, np.int32(vertex)
    for position in range(num_used):
        module = keys_S[used[position]]
        if module == own:
            continue
        linked = sums_S[used[position]] * scale
        joined = exit_M[module] + out - 2 * linked
        bits = base + plogp(total + 2 * (inside - linked)) - bits_M[module]
        bits += plogp(flow_M[module] + flow + joined) - 2 * plogp(joined)
        if bits < best or (bits == best and target != own and module < target):
            best, target = bits, module
    return target


@njit(nogil=True, cache=True)
def _weigh_moves(indptr, indices, weights, scale, begin, nodes, start, stop, before, after, old, new):  # type: ignore[no-untyped-def]
    """Set what moving vertices add to the exit flow of the modules that they leave (``old``) and join (``new``).

    A link counts from both ends. The other end's half is counted here too, unless it moves itself.
    """
    for place in range(start, stop):
        node = nodes[place]
        left, joined = before[begin + node], after[begin + node]
        from_old, to_new = 0.0, 0.0
        for entry in range(indptr[node], indptr[node + 1]):
            other, weight = indices[entry], weights[entry]
            if not weight > 0:
                continue
            was, becomes = before[other], after[other]
            if was != left:
                from_old -= weight
            if becomes != joined:
                to_new += weight
            if was == becomes:
                if was == left:
                    from_old += weight
                elif was == joined:
                    to_new -= weight
        old[place], new[place] = from_old * scale, to_new * scale


@njit(nogil=True, cache=True)
def _move(  # type: ignore[no-untyped-def]
    vertices, targets, flows, old, new, labels, flow_M, exit_M, size_M, bits_M, total_P, searched, moved, turn
):
    for place in range(len(vertices)):
        vertex, target = vertices[place], targets[place]
        own = labels[vertex]
        flow_M[own] -= flows[place]
        flow_M[target] += flows[place]
        exit_M[own] += old[place]
        exit_M[target] += new[place]
        size_M[own] -= 1
        size_M[target] += 1
        total_P[searched[vertex] if len(searched) else 0] += old[place] + new[place]
        moved[vertex] = turn + 2


@njit(nogil=True, cache=True)
def _renew_bits(vertices, targets, after, labels, flow_M, exit_M, bits_M):  # type: ignore[no-untyped-def]
    """Set the bits of the modules that vertices left and joined, and the vertices' new modules."""
    for place in range(len(vertices)):
        for module in (labels[vertices[place]], targets[place]):
            bits_M[module] = plogp(flow_M[module] + exit_M[module]) - 2 * plogp(exit_M[module])
        labels[vertices[place]] = targets[place]


@njit(nogil=True, cache=True)
def _set_bits(flow_M, exit_M, bits_M):  # type: ignore[no-untyped-def]
    for module in range(len(flow_M)):
        bits_M[module] = plogp(flow_M[module] + exit_M[module]) - 2 * plogp(exit_M[module])


@njit(nogil=True, cache=True)
def _count_bits(flow_n, out_n):  # type: ignore[no-untyped-def]
    vertices, alone = np.int64(0), np.int64(0)
    for node in range(len(flow_n)):
        vertices += np.int64(np.rint(plogp(flow_n[node]) * BIT_UNITS))
        alone += np.int64(np.rint((plogp(flow_n[node] + out_n[node]) - 2 * plogp(out_n[node])) * BIT_UNITS))
    return vertices, alone


@njit(nogil=True, cache=True)
def _add_modules(labels_n, flow_n, leaving_n, flow_M, exit_M, size_M):  # type: ignore[no-untyped-def]
    for node in range(len(labels_n)):
        flow_M[labels_n[node]] += flow_n[node]
        exit_M[labels_n[node]] += leaving_n[node]
        size_M[labels_n[node]] += 1


@njit(nogil=True, cache=True)
def _add_totals(size_M, exit_M, parents, total_P):  # type: ignore[no-untyped-def]
    for module in range(len(size_M)):
        if size_M[module] > 0:
            total_P[parents[module]] += exit_M[module]


@njit(nogil=True, cache=True)
def _count_members(labels_n, own_M):  # type: ignore[no-untyped-def]
    for label in labels_n:
        own_M[label] += 1


@njit(nogil=True, cache=True)
def _unite_inside(indptr, indices, weights, begin, labels, parents_n, start, stop, near):  # type: ignore[no-untyped-def]
    """Unite nodes ``start..stop`` with lower ones of their module: of the tile if ``near``, else of tiles before."""
    low, high = (start, stop) if near else (0, start)
    for node in range(start, stop):
        for entry in range(indptr[node], indptr[node + 1]):
            other = indices[entry] - begin
            if low <= other < min(node, high) and weights[entry] > 0 and labels[indices[entry]] == labels[begin + node]:
                union(parents_n, node, other)


@njit(nogil=True, cache=True)
def _crossing_links(indptr, indices, weights, begin, labels, crosses_n, ends):  # type: ignore[no-untyped-def]
    """Count the links inside modules that leave the range, and list as many as ``ends`` (2, E) has room for."""
    count = 0
    for node in range(len(crosses_n)):
        if not crosses_n[node]:
            continue
        for entry in range(indptr[node], indptr[node + 1]):
            other = indices[entry]
            outside = other < begin or other >= begin + len(crosses_n)
            if outside and weights[entry] > 0 and labels[other] == labels[begin + node]:
                if count < ends.shape[1]:
                    ends[0, count], ends[1, count] = begin + node, other
                count += 1
    return count
