"""Moves of the map equation's search: nodes between modules, and modules made nodes of a coarser graph.

A graph here is a symmetric CSR (``indptr``, ``indices``, float32 ``weights``), each node's stationary ``flow``, and its
flow ``out`` to all other nodes; if the graph is part of a larger one, nodes outside it count too. Self loops and
weights that are not positive are ignored. ``scale`` turns weights into flow. Labels are module ids below the
number of nodes. Single-threaded numba; ``map_equation`` runs it in tiles.
Shape suffixes: M modules, P parts, S slots of a hash table (a power of two).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from engine.clustering.module_flows import plogp

MAX_PASSES = 64
MAX_LEVELS = 64
LEAST_GAIN = 1e-7  # a move must save at least this share of the node's flow, so that rounding never moves anything
NEW = -1  # target of a move into a module of its own

_MULTIPLIER = np.uint32(2654435769)
_NONE = np.int32(-1)
_ZERO = np.int64(0)  # for a plain 0, numba would compile the called function once more


@njit(nogil=True, cache=True)
def table_slots(num_keys: int) -> Any:
    """Give the number of slots of a hash table that so many keys fill at most half (numba)."""
    slots = 4
    while slots < 2 * num_keys:
        slots *= 2
    return slots


@njit(nogil=True, cache=True)
def make_table(num_keys):  # type: ignore[no-untyped-def]
    """Make an empty hash table (keys_S, sums_S) and room to list its used slots (numba)."""
    size = table_slots(num_keys)
    return np.full(size, _NONE, np.int32), np.zeros(size), np.empty(size, np.int32)


@njit(nogil=True, cache=True)
def gather_links(indptr, indices, weights, labels, node, keys_S, sums_S, used, num_used):  # type: ignore[no-untyped-def]
    """Add a node's weights to other nodes to ``sums_S``, by module; return the number of slots now used (numba)."""
    mask = len(keys_S) - 1
    last, slot = -1, _ZERO
    for entry in range(indptr[node], indptr[node + 1]):
        other, weight = indices[entry], weights[entry]
        if other == node or not weight > 0:
            continue
        module = labels[other]
        if module != last:  # in cell order, a row's links to one module mostly come together
            last = module
            slot = np.int64((np.uint32(module) * _MULTIPLIER) >> np.uint32(15)) & mask
            while keys_S[slot] != module:
                if keys_S[slot] == _NONE:
                    keys_S[slot] = module
                    used[num_used] = slot
                    num_used += 1
                    break
                slot = (slot + 1) & mask
        sums_S[slot] += weight
    return num_used


@njit(nogil=True, cache=True)
def clear_table(keys_S, sums_S, used, num_used):  # type: ignore[no-untyped-def]
    """Empty the used slots (numba)."""
    for position in range(num_used):
        keys_S[used[position]] = _NONE
        sums_S[used[position]] = 0.0


@njit(nogil=True, cache=True)
def best_move(keys_S, sums_S, used, num_used, scale, flow, out, own, flow_M, exit_M, size_M, totals):  # type: ignore[no-untyped-def]
    """Find the module that a node of module ``own`` should be in: (module or NEW, flow to own, flow to it) (numba).

    The node's links are in the table. ``totals``: the exit flow of this graph's modules, that of modules elsewhere, and
    the log2 of the share c of all flow that these two cover; the index codebook costs c plogp(exit flow / c). Of moves
    that save the same, the one into the lowest module counts.
    """
    inside = 0.0
    for position in range(num_used):
        if keys_S[used[position]] == own:
            inside = sums_S[used[position]] * scale
    total, offset = totals[0] + totals[1], totals[2]
    base = -plogp(total) - (plogp(flow_M[own] + exit_M[own]) - 2 * plogp(exit_M[own]))
    if size_M[own] > 1:
        left = exit_M[own] - out + 2 * inside
        base += plogp(flow_M[own] - flow + left) - 2 * plogp(left)
    best, target, link = -max(LEAST_GAIN * flow, 1e-15), own, inside
    if size_M[own] > 1:
        bits = base + plogp(total + 2 * inside) - 2 * inside * offset + plogp(flow + out) - 2 * plogp(out)
        if bits < best:
            best, target, link = bits, _NONE, 0.0
    for position in range(num_used):
        module = keys_S[used[position]]
        if module == own:
            continue
        linked = sums_S[used[position]] * scale
        joined, change = exit_M[module] + out - 2 * linked, 2 * (inside - linked)
        bits = (
            base + plogp(total + change) - change * offset + plogp(flow_M[module] + flow + joined) - 2 * plogp(joined)
        )
        bits -= plogp(flow_M[module] + exit_M[module]) - 2 * plogp(exit_M[module])
        if bits < best or (bits == best and target >= 0 and target != own and module < target):
            best, target, link = bits, module, linked
    return target, inside, link


@njit(nogil=True, cache=True)
def propose_moves(  # type: ignore[no-untyped-def]
    indptr, indices, weights, scale, flow, out, labels, flow_M, exit_M, size_M, totals, start, stop, active, wanted
):
    """Set ``wanted`` for the active nodes of ``start..stop`` that would move if no other node did (numba)."""
    most = _ZERO
    for node in range(start, stop):
        most = max(most, indptr[node + 1] - indptr[node])
    keys_S, sums_S, used = make_table(most)
    for node in range(start, stop):
        wanted[node] = False
        if not active[node]:
            continue
        own = labels[node]
        away = False
        for entry in range(indptr[node], indptr[node + 1]):
            away |= labels[indices[entry]] != own
        if not away:
            continue
        size = table_slots(indptr[node + 1] - indptr[node])
        keys, sums = keys_S[:size], sums_S[:size]
        num_used = gather_links(indptr, indices, weights, labels, node, keys, sums, used, _ZERO)
        target, _, _ = best_move(
            keys, sums, used, num_used, scale, flow[node], out[node], own, flow_M, exit_M, size_M, totals
        )
        clear_table(keys, sums, used, num_used)
        wanted[node] = target != own


@njit(nogil=True, cache=True)
def move_nodes(  # type: ignore[no-untyped-def]
    indptr, indices, weights, scale, flow, out, labels, flow_M, exit_M, size_M, totals, nodes, active, free, num_free
):
    """Move the active nodes of ``nodes``, one after another, to the module where each saves most (numba).

    Changes ``labels``, the modules' flow, exit flow and size, ``totals`` and ``free``, the stack of unused module ids.
    A node that moves makes its neighbours outside its new module active. Returns the numbers of moves and of free ids.
    """
    most = _ZERO
    for node in nodes:
        most = max(most, indptr[node + 1] - indptr[node])
    keys_S, sums_S, used = make_table(most)
    num_moved = 0
    for node in nodes:
        if not active[node]:
            continue
        active[node] = False
        own = labels[node]
        size = table_slots(indptr[node + 1] - indptr[node])
        keys, sums = keys_S[:size], sums_S[:size]
        num_used = gather_links(indptr, indices, weights, labels, node, keys, sums, used, _ZERO)
        if num_used == 0:
            continue
        target, inside, link = best_move(
            keys, sums, used, num_used, scale, flow[node], out[node], own, flow_M, exit_M, size_M, totals
        )
        clear_table(keys, sums, used, num_used)
        if target == own:
            continue
        if target == NEW:  # a node never leaves a module of one this way, so an id is free
            num_free -= 1
            target = free[num_free]
        size_M[own] -= 1
        flow_M[own] -= flow[node]
        exit_M[own] += 2 * inside - out[node]
        if size_M[own] == 0:
            flow_M[own], exit_M[own] = 0.0, 0.0
            free[num_free] = own
            num_free += 1
        size_M[target] += 1
        flow_M[target] += flow[node]
        exit_M[target] += out[node] - 2 * link
        totals[0] += 2 * (inside - link)
        labels[node] = target
        num_moved += 1
        for entry in range(indptr[node], indptr[node + 1]):
            if labels[indices[entry]] != target:
                active[indices[entry]] = True
    return num_moved, num_free


@njit(nogil=True, cache=True)
def shuffle(nodes, seed):  # type: ignore[no-untyped-def]
    """Put nodes in a pseudo-random order that depends on the seed alone (Fisher-Yates, splitmix64; numba)."""
    state = np.uint64(seed)
    for last in range(len(nodes) - 1, 0, -1):
        state += np.uint64(0x9E3779B97F4A7C15)
        mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        other = np.int64((mixed ^ (mixed >> np.uint64(31))) % np.uint64(last + 1))
        nodes[last], nodes[other] = nodes[other], nodes[last]


@njit(nogil=True, cache=True)
def number_modules(labels, limit):  # type: ignore[no-untyped-def]
    """Number modules, ids below ``limit``, by first member: (each node's number, number of modules) (numba)."""
    number_of, numbers = np.full(limit, _NONE, np.int32), np.empty(len(labels), np.int32)
    num_modules = 0
    for node in range(len(labels)):
        if number_of[labels[node]] < 0:
            number_of[labels[node]] = num_modules
            num_modules += 1
        numbers[node] = number_of[labels[node]]
    return numbers, num_modules


@njit(nogil=True, cache=True)
def order_members(numbers, num_modules):  # type: ignore[no-untyped-def]
    """Sort nodes by module, then by id: (nodes, each module's first position and the end) (numba)."""
    starts = np.zeros(num_modules + 1, np.int64)
    for module in numbers:
        starts[module + 1] += 1
    for module in range(num_modules):
        starts[module + 1] += starts[module]
    members, filled = np.empty(len(numbers), np.int32), starts[:-1].copy()
    for node in range(len(numbers)):
        members[filled[numbers[node]]] = node
        filled[numbers[node]] += 1
    return members, starts


@njit(nogil=True, cache=True)
def link_modules(indptr, indices, weights, numbers, members, starts, first, last):  # type: ignore[no-untyped-def]
    """Sum the links of modules ``first..last`` to other modules: (degree of each, other modules, weights) (numba).

    A module's other modules come in the order of their first link.
    """
    rooms = np.zeros(last - first, np.int64)
    total = most = _ZERO
    for module in range(first, last):
        for position in range(starts[module], starts[module + 1]):
            rooms[module - first] += indptr[members[position] + 1] - indptr[members[position]]
        rooms[module - first] = min(rooms[module - first], len(starts) - 1)
        total, most = total + rooms[module - first], max(most, rooms[module - first])
    others, sums = np.empty(total, np.int32), np.empty(total, np.float32)
    keys_S, sums_S, used = make_table(most)
    degrees = np.zeros(last - first, np.int64)
    filled = 0
    for module in range(first, last):
        size = table_slots(rooms[module - first])
        keys, values = keys_S[:size], sums_S[:size]
        num_used = _ZERO
        for position in range(starts[module], starts[module + 1]):
            num_used = gather_links(indptr, indices, weights, numbers, members[position], keys, values, used, num_used)
        for position in range(num_used):
            if keys[used[position]] != module:
                others[filled] = keys[used[position]]
                sums[filled] = values[used[position]]
                filled += 1
                degrees[module - first] += 1
        clear_table(keys, values, used, num_used)
    return degrees, others[:filled].copy(), sums[:filled].copy()


@njit(nogil=True, cache=True)
def extract_part(indptr, indices, weights, members, positions, start, stop):  # type: ignore[no-untyped-def]
    """Cut out the graph among ``members[start:stop]``, numbered from 0; ``positions`` inverts ``members`` (numba)."""
    part_indptr = np.zeros(stop - start + 1, np.int64)
    for position in range(start, stop):
        node, degree = members[position], 0
        for entry in range(indptr[node], indptr[node + 1]):
            degree += start <= positions[indices[entry]] < stop
        part_indptr[position - start + 1] = part_indptr[position - start] + degree
    part_indices, part_weights = np.empty(part_indptr[-1], np.int32), np.empty(part_indptr[-1], np.float32)
    filled = 0
    for position in range(start, stop):
        node = members[position]
        for entry in range(indptr[node], indptr[node + 1]):
            other = positions[indices[entry]]
            if start <= other < stop:
                part_indices[filled] = other - start
                part_weights[filled] = weights[entry]
                filled += 1
    return part_indptr, part_indices, part_weights


@njit(nogil=True, cache=True)
def solve_graph(indptr, indices, weights, scale, flow, out, other_exit, share, seed, max_levels):  # type: ignore[no-untyped-def]
    """Move nodes, each at first a module of its own, then modules as nodes, up to ``max_levels`` times (numba).

    ``other_exit`` is the exit flow of modules elsewhere and ``share`` the share c, as in ``best_move``'s totals.
    Returns each node's module, numbered by first member.
    """
    result = np.arange(len(flow)).astype(np.int32)
    for _ in range(max_levels):
        num_nodes = len(flow)
        labels, nodes = np.arange(num_nodes).astype(np.int32), np.arange(num_nodes).astype(np.int32)
        flow_M, exit_M, size_M = flow.copy(), out.copy(), np.ones(num_nodes, np.int32)
        free, num_free = np.empty(num_nodes, np.int32), _ZERO
        totals = np.array([out.sum(), other_exit, np.log2(share) if share > 0 else 0.0])
        active = np.ones(num_nodes, np.bool_)
        shuffle(nodes, seed)
        any_moved = False
        for _ in range(MAX_PASSES):
            num_moved, num_free = move_nodes(
                indptr,
                indices,
                weights,
                scale,
                flow,
                out,
                labels,
                flow_M,
                exit_M,
                size_M,
                totals,
                nodes,
                active,
                free,
                num_free,
            )
            if num_moved == 0:
                break
            any_moved = True
        if not any_moved:
            break
        numbers, num_modules = number_modules(labels, num_nodes)
        for node in range(len(result)):
            result[node] = numbers[result[node]]
        if num_modules == 1:
            break
        members, starts = order_members(numbers, num_modules)
        flow, out = np.empty(num_modules), np.empty(num_modules)
        for module in range(num_modules):
            label = labels[members[starts[module]]]
            flow[module], out[module] = flow_M[label], exit_M[label]
        degrees, indices, weights = link_modules(indptr, indices, weights, numbers, members, starts, _ZERO, num_modules)
        indptr = np.zeros(num_modules + 1, np.int64)
        for module in range(num_modules):
            indptr[module + 1] = indptr[module] + degrees[module]
    return result


@njit(nogil=True, cache=True)
def solve_parts(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    weights,
    scale,
    flow,
    out,
    members,
    positions,
    starts,
    first,
    last,
    asked_P,
    other_exit_P,
    share_P,
    seed,
    max_levels,
    result,
):
    """Run ``solve_graph`` on each part of ``first..last`` that is asked for (numba).

    Writes to ``result`` each node's module within its part; a part that is not asked for is one module.
    """
    for part in range(first, last):
        start, stop = starts[part], starts[part + 1]
        num_nodes = stop - start
        modules = np.zeros(num_nodes, np.int32)
        if num_nodes > 1 and asked_P[part]:
            part_indptr, part_indices, part_weights = extract_part(
                indptr, indices, weights, members, positions, start, stop
            )
            part_flow, part_out = np.empty(num_nodes), np.empty(num_nodes)
            for node in range(num_nodes):
                part_flow[node], part_out[node] = flow[members[start + node]], out[members[start + node]]
            modules = solve_graph(
                part_indptr,
                part_indices,
                part_weights,
                scale,
                part_flow,
                part_out,
                other_exit_P[part],
                share_P[part],
                seed,
                max_levels,
            )
        for node in range(num_nodes):
            result[members[start + node]] = modules[node]
