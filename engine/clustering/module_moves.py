"""Moves of the map equation's search: nodes between modules, and modules made nodes of a coarser graph.

A graph here is a symmetric CSR without self loops (``indptr``, ``indices``, ``weights``), each node's stationary
``flow``, and its flow ``out`` to all other nodes. Weights that are not positive are ignored. ``scale`` turns weights
into flow. Labels are module ids below the number of nodes. Single-threaded numba.
Shape suffixes: M modules, S slots of a hash table (a power of two).
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
    """Add a node's weights to ``sums_S``, by the other's module; return the number of slots now used (numba)."""
    mask = len(keys_S) - 1
    last, slot = -1, _ZERO
    for entry in range(indptr[node], indptr[node + 1]):
        other, weight = indices[entry], weights[entry]
        if not weight > 0:
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
def best_move(keys_S, sums_S, used, num_used, scale, flow, out, own, flow_M, exit_M, size_M, total):  # type: ignore[no-untyped-def]
    """Find the module that a node of module ``own`` should be in: (module or NEW, flow to own, flow to it) (numba).

    The node's links are in the table. ``total``: the exit flow of all modules. Of moves that save the same, the one
    into the lowest module counts.
    """
    inside = 0.0
    for position in range(num_used):
        if keys_S[used[position]] == own:
            inside = sums_S[used[position]] * scale
    base = -plogp(total) - (plogp(flow_M[own] + exit_M[own]) - 2 * plogp(exit_M[own]))
    if size_M[own] > 1:
        left = exit_M[own] - out + 2 * inside
        base += plogp(flow_M[own] - flow + left) - 2 * plogp(left)
    best, target, link = -max(LEAST_GAIN * flow, 1e-15), own, inside
    if size_M[own] > 1:
        bits = base + plogp(total + 2 * inside) + plogp(flow + out) - 2 * plogp(out)
        if bits < best:
            best, target, link = bits, _NONE, 0.0
    for position in range(num_used):
        module = keys_S[used[position]]
        if module == own:
            continue
        linked = sums_S[used[position]] * scale
        joined = exit_M[module] + out - 2 * linked
        bits = base + plogp(total + 2 * (inside - linked)) + plogp(flow_M[module] + flow + joined) - 2 * plogp(joined)
        bits -= plogp(flow_M[module] + exit_M[module]) - 2 * plogp(exit_M[module])
        if bits < best or (bits == best and target >= 0 and target != own and module < target):
            best, target, link = bits, module, linked
    return target, inside, link


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
            keys, sums, used, num_used, scale, flow[node], out[node], own, flow_M, exit_M, size_M, totals[0]
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
def link_modules(indptr, indices, weights, labels, names, members, starts, first, last, limit):  # type: ignore[no-untyped-def]
    """Sum the links of modules ``first..last`` to other modules: (degree of each, other labels, weights) (numba).

    ``names``: the label of each module, of ``limit`` labels. A module's other modules come in the order of their first
    link.
    """
    rooms = np.zeros(last - first, np.int64)
    total = most = _ZERO
    for module in range(first, last):
        for position in range(starts[module], starts[module + 1]):
            rooms[module - first] += indptr[members[position] + 1] - indptr[members[position]]
        rooms[module - first] = min(rooms[module - first], limit)
        total, most = total + rooms[module - first], max(most, rooms[module - first])
    others, sums = np.empty(total, np.int32), np.empty(total)
    keys_S, sums_S, used = make_table(most)
    degrees = np.zeros(last - first, np.int64)
    filled = 0
    for module in range(first, last):
        size = table_slots(rooms[module - first])
        keys, values = keys_S[:size], sums_S[:size]
        num_used = _ZERO
        for position in range(starts[module], starts[module + 1]):
            num_used = gather_links(indptr, indices, weights, labels, members[position], keys, values, used, num_used)
        for position in range(num_used):
            if keys[used[position]] != names[module]:
                others[filled] = keys[used[position]]
                sums[filled] = values[used[position]]
                filled += 1
                degrees[module - first] += 1
        clear_table(keys, values, used, num_used)
    return degrees, others[:filled].copy(), sums[:filled].copy()


@njit(nogil=True, cache=True)
def sum_modules(indptr, indices, weights, scale, flow, labels, limit):  # type: ignore[no-untyped-def]
    """Sum the flow and the exit flow of modules, by label; labels are below ``limit`` (numba)."""
    flow_M, exit_M = np.zeros(limit), np.zeros(limit)
    for node in range(len(flow)):
        flow_M[labels[node]] += flow[node]
        for entry in range(indptr[node], indptr[node + 1]):
            if labels[indices[entry]] != labels[node]:
                exit_M[labels[node]] += weights[entry] * scale
    return flow_M, exit_M


@njit(nogil=True, cache=True)
def move_all(indptr, indices, weights, scale, flow, out, labels, nodes):  # type: ignore[no-untyped-def]
    """Move nodes from the modules in ``labels``, which change, in the order of ``nodes``, until no move saves bits.

    Returns whether any node moved (numba).
    """
    flow_M, exit_M = sum_modules(indptr, indices, weights, scale, flow, labels, len(flow))
    size_M, free, num_free = np.zeros(len(flow), np.int32), np.empty(len(flow), np.int32), _ZERO
    for label in labels:
        size_M[label] += 1
    for module in range(len(flow)):
        if size_M[module] == 0:
            free[num_free] = module
            num_free += 1
    totals, active = np.array([exit_M.sum()]), np.ones(len(flow), np.bool_)
    state = (indptr, indices, weights, scale, flow, out, labels, flow_M, exit_M, size_M, totals, nodes, active, free)
    any_moved = False
    for _ in range(MAX_PASSES):
        num_moved, num_free = move_nodes(*state, num_free)
        if num_moved == 0:
            break
        any_moved = True
    return any_moved


@njit(nogil=True, cache=True)
def contract_modules(indptr, indices, weights, numbers, num_modules):  # type: ignore[no-untyped-def]
    """Make modules, numbered by first member, the nodes of a graph: (indptr, indices, weights) (numba)."""
    members, starts = order_members(numbers, num_modules)
    names = np.arange(num_modules).astype(np.int32)
    degrees, others, sums = link_modules(
        indptr, indices, weights, numbers, names, members, starts, _ZERO, num_modules, num_modules
    )
    begins = np.zeros(num_modules + 1, np.int64)
    for module in range(num_modules):
        begins[module + 1] = begins[module] + degrees[module]
    return begins, others, sums


@njit(nogil=True, cache=True)
def solve_graph(indptr, indices, weights, scale, flow, out, labels, seed):  # type: ignore[no-untyped-def]
    """Move the modules of ``labels`` as nodes, then the modules that these form, until nothing moves (numba).

    Returns each node's module, numbered by first member.
    """
    numbers, num_modules = number_modules(labels, len(flow))
    result = numbers
    for _ in range(MAX_LEVELS):
        if num_modules < len(flow):
            flow, out = sum_modules(indptr, indices, weights, scale, flow, numbers, num_modules)
            indptr, indices, weights = contract_modules(indptr, indices, weights, numbers, num_modules)
        moved, nodes = np.arange(num_modules).astype(np.int32), np.arange(num_modules).astype(np.int32)
        shuffle(nodes, seed)
        if not move_all(indptr, indices, weights, scale, flow, out, moved, nodes):
            break
        numbers, num_modules = number_modules(moved, num_modules)
        for node in range(len(result)):
            result[node] = numbers[result[node]]
        if num_modules == 1:
            break
    return result
