"""Connected components over ranges of the vertices: each range's parents lie in a process of their own.

The vertices are cut into P ranges of equal length, so that parents may exceed one host's memory. A range knows the
parents of its own vertices alone. A parent inside the range belongs to a *tree* of the range. Only a tree's root can
have a parent below the range; this parent is the tree's *link*.

An edge goes to the range of its larger end, which joins two of its trees, or links one. If a tree had another link
already, it keeps the lower link, and the edge between both links is passed on to the range of its larger end. Edges
thus only move down, one for one, and P rounds use up all of them. After each round every link is replaced by the link,
or the root, of the tree that it points at (pointer jumping), and trees with the same link are joined. Each round halves
the chains of links, and edges on their way profit too: from the last edge read until all is settled, the measured
rounds grow with log P (paths of any length and order: at most 2 log2 P + 3) and not with N.

Parents are never larger than their children. The result is therefore each component's minimum id, for any order of
edges and messages: the bytes of ``UnionFind``. The method follows min-label hooking and pointer jumping (Shiloach and
Vishkin 1982); it saves rounds because a range joins all its own trees at once instead of hooking edge by edge.
Legend: N vertices, P ranges, n vertices of a range, E edges, T trees that have a link.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numba import njit

from engine.clustering.union_find import Ids, check_edges, id_dtype
from engine.storage.companions import Companions, exchange

PIECE_EDGES = 1 << 22  # edges read at a time

SETTLED, MOVING, UNREAD = range(3)  # a range has nothing left, edges to pass on, or edges to read


class VertexRange:
    """One range's parents. Called in rounds by ``unite_ranges``; then ``roots`` has the result.

    Memory: 4 bytes per vertex of the range; 32 per vertex while links are first sorted, if every vertex has one; and 8
    per edge of a round, which are the piece read and about a piece passed on from each higher range. From 2**31
    vertices it is twice as much.
    """

    def __init__(self, number: int, num_ranges: int, num_vertices: int, blocks: Iterable[tuple[Ids, Ids]]) -> None:
        """Take range ``number``; of each block of edges, read once, it keeps those whose larger end it holds.

        A block with an id outside the vertices raises ``DataError`` when it is read.
        """
        self.num_ranges, self.num_vertices = num_ranges, num_vertices
        self.start, self.stop = range_bounds(number, num_ranges, num_vertices)
        self._length = max(1, range_bounds(0, num_ranges, num_vertices)[1])
        self._parents_n: Ids = np.arange(self.start, self.stop, dtype=id_dtype(num_vertices))
        self._pieces = self._cut(blocks)
        self._unread = True
        self._passed: list[Ids] = []
        self._questions: tuple[Ids, ...] = ()
        self._trees_T: Ids = self._parents_n[:0]
        self._asked: list[Ids] = []

    def give_edges(self) -> list[Ids]:
        """Hand over the edges passed on to each range (2, E), after reading one more piece unless many are waiting."""
        if self._unread and sum(edges.shape[1] for edges in self._passed) < PIECE_EDGES:
            piece = next(self._pieces, None)
            self._unread = piece is not None
            if piece is not None:
                self._unite(*piece)
        edges = np.concatenate([self._parents_n[:0].reshape(2, 0), *self._passed], axis=1)
        self._passed = []
        owners = edges[0] // self._length
        return [np.ascontiguousarray(edges[:, owners == number]) for number in range(self.num_ranges)]

    def take_edges(self, *messages: Ids) -> int:
        """Join trees over the edges given; returns ``SETTLED``, ``MOVING`` or ``UNREAD``."""
        for edges in messages:
            self._unite(edges[0], edges[1])
        return UNREAD if self._unread else MOVING if self._passed else SETTLED

    def ask(self) -> list[Ids]:
        """Join the trees that share a link; give each range the links into it, ascending."""
        roots, links = _linked(self._parents_n, self.start)
        order = np.argsort(links, kind="stable")
        roots, links = roots[order], links[order]
        del order
        begins = np.ones(len(links), np.bool_)
        begins[1:] = links[1:] != links[:-1]
        first = np.flatnonzero(begins)
        _join_runs(self._parents_n, self.start, roots, first)
        self._trees_T, links = roots[first], links[first]
        bounds = [range_bounds(number, self.num_ranges, self.num_vertices)[0] for number in range(1, self.num_ranges)]
        self._asked = np.split(links, np.searchsorted(links, np.array(bounds, links.dtype)))
        return self._asked

    def hear(self, *questions: Ids) -> None:
        """Take the links that the other ranges ask about."""
        self._questions = questions

    def answer(self) -> list[Ids]:
        """Give each asking range (2, C) its changed links: their places in the question, and their new targets."""
        changes = []
        for links in self._questions:
            tops = np.empty_like(links)
            _find_tops(self._parents_n, self.start, links, tops)
            changed = np.flatnonzero(tops != links)
            changes.append(np.stack([changed.astype(links.dtype), tops[changed]]))
        self._questions = ()
        return changes

    def settle(self, *answers: Ids) -> bool:
        """Replace the links that have changed; return whether any has."""
        offset = 0
        for links, (places, tops) in zip(self._asked, answers, strict=True):
            self._parents_n[self._trees_T[offset + places] - self.start] = tops
            offset += len(links)
        return any(answer.shape[1] for answer in answers)

    def roots(self) -> Ids:
        """Give each vertex of the range (n, int32 or int64) the minimum id of its component."""
        _flatten_range(self._parents_n, self.start)
        return self._parents_n

    def _cut(self, blocks: Iterable[tuple[Ids, Ids]]) -> Iterator[tuple[Ids, Ids]]:
        for sources, targets in blocks:
            for begin in range(0, len(sources), PIECE_EDGES):
                piece = sources[begin : begin + PIECE_EDGES], targets[begin : begin + PIECE_EDGES]
                check_edges(*piece, self.num_vertices)
                yield piece

    def _unite(self, sources_E: Ids, targets_E: Ids) -> None:
        passed = np.empty((2, len(sources_E)), self._parents_n.dtype)
        count = _unite_edges(self._parents_n, self.start, sources_E, targets_E, passed)
        if count:
            self._passed.append(passed[:, :count].copy())


def range_bounds(number: int, num_ranges: int, num_vertices: int) -> tuple[int, int]:
    """Give a range's first vertex, and the first vertex after it; the last ranges may be short or empty."""
    length = -(-num_vertices // num_ranges)
    return min(number * length, num_vertices), min((number + 1) * length, num_vertices)


def unite_ranges(ranges: Companions) -> int:
    """Read and unite all edges of ``VertexRange`` companions, numbered as their ranges are.

    Returns the number of rounds after all edges were read: first rounds in which edges are passed on and all links
    jump, then rounds of jumps alone.
    """
    rounds = 0
    while True:
        state = max(exchange(ranges, "give_edges", "take_edges"))
        if state == UNREAD:
            continue
        rounds += 1
        changed = _jump(ranges)
        if state == SETTLED and not changed:
            return rounds


def _jump(ranges: Companions) -> bool:
    exchange(ranges, "ask", "hear")
    return any(exchange(ranges, "answer", "settle"))


def iterate_roots(ranges: Companions) -> Iterator[Ids]:
    """Give the ranges' ``roots`` one after the other; one range's roots are held at a time."""
    for number in range(len(ranges)):
        yield from ranges.wait([ranges.begin(number, "roots")])


@njit(nogil=True, cache=True)
def _find_tree(parents, start, vertex):  # type: ignore[no-untyped-def]
    parent = parents[vertex - start]
    while parent != vertex and parent >= start:
        above = parents[parent - start]
        if above >= start:
            parents[vertex - start] = above
        vertex, parent = parent, above
    return vertex


@njit(nogil=True, cache=True)
def _unite_edges(parents, start, sources, targets, passed):  # type: ignore[no-untyped-def]
    stop, count = start + len(parents), 0
    for edge in range(len(sources)):
        low, high = min(sources[edge], targets[edge]), max(sources[edge], targets[edge])
        if high < start or high >= stop:
            continue
        tree = _find_tree(parents, start, high)
        if low >= start:
            other = _find_tree(parents, start, low)
            if tree == other:
                continue
            tree, other = min(tree, other), max(tree, other)
            low = parents[other - start]
            parents[other - start] = tree
            if low == other:
                continue
        link = parents[tree - start]
        if link == tree:
            parents[tree - start] = low
        elif link != low:
            parents[tree - start] = min(link, low)
            high, low = max(link, low), min(link, low)
            if count == 0 or passed[0, count - 1] != high or passed[1, count - 1] != low:
                passed[0, count], passed[1, count] = high, low
                count += 1
    return count


@njit(nogil=True, cache=True)
def _linked(parents, start):  # type: ignore[no-untyped-def]
    count = 0
    for place in range(len(parents)):
        count += parents[place] < start
    roots, links = np.empty(count, parents.dtype), np.empty(count, parents.dtype)
    count = 0
    for place in range(len(parents)):
        if parents[place] < start:
            roots[count], links[count] = start + place, parents[place]
            count += 1
    return roots, links


@njit(nogil=True, cache=True)
def _join_runs(parents, start, roots, first):  # type: ignore[no-untyped-def]
    for run in range(len(first)):
        end = first[run + 1] if run + 1 < len(first) else len(roots)
        for place in range(first[run] + 1, end):
            parents[roots[place] - start] = roots[first[run]]


@njit(nogil=True, cache=True)
def _find_tops(parents, start, links, tops):  # type: ignore[no-untyped-def]
    for place in range(len(links)):
        tops[place] = parents[_find_tree(parents, start, links[place]) - start]


@njit(nogil=True, cache=True)
def _flatten_range(parents, start):  # type: ignore[no-untyped-def]
    for place in range(len(parents)):  # parents are never larger than their child, so theirs are final
        parent = parents[place]
        if parent >= start:
            parents[place] = parents[parent - start]
