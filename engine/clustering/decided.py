"""Hold clusters to what people decided: rows that belong together, and pairs of rows that do not.

N vertices, M pairs that belong together, C pairs that do not, E edges. The pairs may name a vertex any number of times.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.union_find import UnionFind, find_root, flatten

Ids = NDArray[Any]
FEW_EDGES = 10  # edges between two clusters of ten rows and more are averaged over at least so many


def contradiction(num_vertices: int, must: Ids, cannot: Ids) -> tuple[int, list[int]] | None:
    """Find the first pair of ``cannot`` (C, 2) whose ends the pairs of ``must`` (M, 2) join.

    Returns its place in ``cannot`` and the places in ``must`` of a shortest chain that joins its ends, in order;
    ``None`` if no pair is contradicted.
    """
    union = UnionFind(num_vertices)
    union.add(*_ends(must))
    roots_N = union.roots()
    found = np.flatnonzero(roots_N[cannot[:, 0]] == roots_N[cannot[:, 1]])
    if not len(found):
        return None
    first = int(found[0])
    return first, _chain(must, int(cannot[first, 0]), int(cannot[first, 1]))


def hold(
    roots_N: Ids,
    must: Ids,
    cannot: Ids,
    sources_E: Ids,
    targets_E: Ids,
    scores_E: NDArray[np.float32],
    even: float = 0.5,
) -> Ids:
    """Make clusters keep all pairs of ``must`` (M, 2) together and all pairs of ``cannot`` (C, 2) apart.

    ``roots_N``: a number for each vertex's cluster, as any partition gives it. ``even``: the score of an edge of even
    odds. Other clusters than those that break a pair stay as they are.

    - A pair of ``must`` in two clusters: either end may bring rows of its cluster along, nearest first (Prim's
      order), up to all of them. What comes along is what the scores contradict least: the mean of (score - even) of
      its edges to the other cluster, less that of its edges to what it leaves. It is the mean and not the sum, because
      the scores between two halves of one identity are wrong together.
    - A cluster that holds a pair of ``cannot`` is put together anew: first the pairs of ``must``, then its edges from
      the highest score down, but no edge that would join such a pair. So it comes apart at the weakest links between
      them. Members without such an edge stay with what is left of their own cluster.

    Returns the lowest vertex of each vertex's cluster (N,), of the type of ``roots_N``. Equal for any order of the
    edges and pairs; ties go to the lower vertices. The pairs must not contradict each other (``contradiction``).
    """
    must, cannot = _distinct(must), _distinct(cannot)
    lowest_N = _lowest(roots_N)
    apart = lowest_N[must[:, 0]] != lowest_N[must[:, 1]]
    if apart.any():
        touched_N = np.zeros(len(roots_N), bool)
        touched_N[lowest_N[must[apart]].ravel()] = True
        lowest_N = _lowest(_bring_together(lowest_N, touched_N[lowest_N], must, sources_E, targets_E, scores_E, even))
    broken = lowest_N[cannot[:, 0]] == lowest_N[cannot[:, 1]]
    if broken.any():
        anew_N = np.zeros(len(roots_N), bool)
        anew_N[lowest_N[cannot[broken, 0]]] = True
        lowest_N = _lowest(_take_apart(lowest_N, anew_N[lowest_N], must, cannot, sources_E, targets_E, scores_E))
    return lowest_N.astype(roots_N.dtype)


def _distinct(pairs: Ids) -> NDArray[np.int64]:
    """Order pairs, lower vertex first, each once; leave out a vertex paired with itself."""
    pairs = np.sort(np.asarray(pairs, np.int64).reshape(-1, 2), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def _ordered(sources_E: Ids, targets_E: Ids, scores_E: NDArray[np.float32]) -> tuple[Ids, NDArray[np.float64]]:
    """Order edges from the highest score down, ties by their vertices: pairs (E, 2) int64 and scores."""
    low_E, high_E = np.minimum(sources_E, targets_E), np.maximum(sources_E, targets_E)
    order = np.lexsort((high_E, low_E, -scores_E))
    return np.stack([low_E[order], high_E[order]], axis=1).astype(np.int64), scores_E[order].astype(np.float64)


def _bring_together(
    lowest_N: Ids, touched_N: Ids, must: Ids, sources_E: Ids, targets_E: Ids, scores_E: NDArray[np.float32], even: float
) -> Ids:
    """Bring the ends of every pair of ``must`` into one cluster; give a number of each vertex's cluster."""
    # A cluster that a pair does not break may be joined later by one that does, so all edges of both count.
    kept_E = touched_N[sources_E] & touched_N[targets_E]
    pairs, scores = _ordered(sources_E[kept_E], targets_E[kept_E], scores_E[kept_E])
    inner = touched_N[must[:, 0]] & touched_N[must[:, 1]]
    links = np.concatenate([must[inner], pairs])
    weights = np.concatenate([np.full(int(inner.sum()), np.inf), scores])
    vertices, places = np.unique(links.ravel(), return_inverse=True)
    ends = places.reshape(-1, 2)
    near = np.concatenate([ends[:, 0], ends[:, 1]])
    order = np.argsort(near, kind="stable")
    starts = np.searchsorted(near[order], np.arange(len(vertices) + 1))
    others, both = np.concatenate([ends[:, 1], ends[:, 0]])[order], np.concatenate([weights, weights])[order]
    groups = lowest_N[vertices]
    _bring(groups, starts, others, both, even, ends[: int(inner.sum())])
    found_N = lowest_N.copy()
    found_N[vertices] = groups
    return found_N


def _take_apart(
    lowest_N: Ids, anew_N: Ids, must: Ids, cannot: Ids, sources_E: Ids, targets_E: Ids, scores_E: NDArray[np.float32]
) -> Ids:
    """Put clusters together anew without joining a pair of ``cannot``; give a number of each vertex's cluster."""
    inside_E = anew_N[sources_E] & (lowest_N[sources_E] == lowest_N[targets_E])
    members = np.flatnonzero(anew_N)
    stay = np.stack([lowest_N[members], members], axis=1)
    pairs = _ordered(sources_E[inside_E], targets_E[inside_E], scores_E[inside_E])[0]
    links = np.concatenate([must[anew_N[must[:, 0]]], pairs, stay])
    parents_N = np.where(anew_N, np.arange(len(lowest_N)), lowest_N)
    apart = cannot[anew_N[cannot[:, 0]] & (lowest_N[cannot[:, 0]] == lowest_N[cannot[:, 1]])]
    _join_but(parents_N, links, apart, lowest_N)
    flatten(parents_N)
    return parents_N


def _ends(pairs: Ids) -> tuple[Ids, Ids]:
    return pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)


def _lowest(groups_N: Ids) -> NDArray[np.int64]:
    """Give the lowest vertex of each vertex's group."""
    _, first, places = np.unique(groups_N, return_index=True, return_inverse=True)
    return first.astype(np.int64)[places]


def _chain(must: Ids, start: int, end: int) -> list[int]:
    """Find the places of the pairs on a shortest way from one vertex to another, by breadth-first search."""
    beside: dict[int, list[tuple[int, int]]] = {}
    for place, (a, b) in enumerate(must.tolist()):
        beside.setdefault(a, []).append((b, place))
        beside.setdefault(b, []).append((a, place))
    came: dict[int, tuple[int, int]] = {start: (start, -1)}
    waiting = deque([start])
    while waiting and end not in came:
        vertex = waiting.popleft()
        for other, place in beside.get(vertex, []):
            if other not in came:
                came[other] = (vertex, place)
                waiting.append(other)
    places = []
    while end != start:
        end, place = came[end]
        places.append(place)
    return places[::-1]


@njit(nogil=True, cache=True)
def _bring(groups_V, starts_V, others, scores, even, pairs):  # type: ignore[no-untyped-def]
    """Bring the ends of the pairs into one group, one pair after the other; links of infinite score never break."""
    seen_V = np.zeros(len(groups_V), np.int64)
    for number in range(len(pairs)):
        a, b = pairs[number, 0], pairs[number, 1]
        if groups_V[a] == groups_V[b]:
            continue
        best, bring, onto = -np.inf, np.empty(0, np.int64), 0
        for first, second in ((a, b), (b, a)):
            mark = 2 * number + 1 + (first == b)
            order, length, value = _best_prefix(
                groups_V, starts_V, others, scores, even, first, groups_V[second], seen_V, mark
            )
            if value > best:
                best, bring, onto = value, order[:length].copy(), groups_V[second]
        for vertex in bring:
            groups_V[vertex] = onto


@njit(nogil=True, cache=True)
def _best_prefix(groups_V, starts_V, others, scores, even, start, onto, seen_V, mark):  # type: ignore[no-untyped-def]
    """Grow a group from ``start`` in its cluster, nearest vertex first; find where the scores say to stop.

    Returns the vertices in order, how many of them to bring onto the cluster ``onto``, and how well the scores agree.
    """
    own = groups_V[start]
    order = np.empty(len(groups_V), np.int64)
    room = 0
    for group in groups_V:
        room += group == onto
    waiting = [(-np.inf, start)]
    count, best_count, best = 0, 0, -np.inf
    left, left_edges, joined, joined_edges = 0.0, 0, 0.0, 0  # to the rest of the own cluster, and to the other one
    while len(waiting):
        least, vertex = heapq.heappop(waiting)
        if seen_V[vertex] == mark:
            continue
        if least > -np.inf and count:  # no pair that must stay together ends here
            value = _mean(joined, joined_edges, min(count, room)) - left / max(left_edges, 1)
            if value >= best:
                best, best_count = value, count
        seen_V[vertex] = mark
        order[count] = vertex
        count += 1
        for place in range(starts_V[vertex], starts_V[vertex + 1]):
            other, score = others[place], scores[place]
            if groups_V[other] == own:
                if seen_V[other] != mark:
                    heapq.heappush(waiting, (-score, other))
                if score < np.inf:
                    sign = -1 if seen_V[other] == mark else 1
                    left += sign * score
                    left_edges += sign
            elif groups_V[other] == onto and score < np.inf:
                joined += score
                joined_edges += 1
    value = _mean(joined, joined_edges, min(count, room)) - even
    if value >= best:
        best, best_count = value, count
    return order, best_count, best


@njit(nogil=True, cache=True, inline="always")
def _mean(total, edges, smaller):  # type: ignore[no-untyped-def]
    """Average over the edges, or over as many as there should be; what is not listed counts as 0."""
    return total / max(edges, min(smaller, FEW_EDGES))


@njit(nogil=True, cache=True)
def _join_but(parents_N, links_L, apart_C, joined_N):  # type: ignore[no-untyped-def]
    """Join the ends of the links in order, but never the two ends of a pair of ``apart_C``."""
    # The pairs of each cluster stand together, so that a link looks at those of its own cluster alone.
    order = np.argsort(joined_N[apart_C[:, 0]], kind="mergesort")
    keys = joined_N[apart_C[:, 0]][order]
    named_N = np.zeros(len(parents_N), np.bool_)  # whether a group, by its root, holds an end of a pair
    for pair in range(len(apart_C)):
        named_N[apart_C[pair, 0]] = named_N[apart_C[pair, 1]] = True
    for link in range(len(links_L)):
        a, b = find_root(parents_N, links_L[link, 0]), find_root(parents_N, links_L[link, 1])
        if a == b:
            continue
        if named_N[a] and named_N[b]:
            forbidden = False
            key = joined_N[links_L[link, 0]]
            for place in range(np.searchsorted(keys, key), np.searchsorted(keys, key, side="right")):
                first = find_root(parents_N, apart_C[order[place], 0])
                second = find_root(parents_N, apart_C[order[place], 1])
                if (first == a and second == b) or (first == b and second == a):
                    forbidden = True
                    break
            if forbidden:
                continue
        low, high = min(a, b), max(a, b)
        parents_N[high] = low
        named_N[low] = named_N[low] or named_N[high]
