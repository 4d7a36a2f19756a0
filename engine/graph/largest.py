"""Find the largest of many products of codes without sorting them all; the order of work does not change the result.

Products are whole numbers of 16 bits. A histogram of ``BINS`` bins finds the bin of the last product wanted; only
products in or above it are sorted.
"""

from __future__ import annotations

import numba
import numpy as np

from engine.graph.intrinsics import REACHED, reaching
from engine.units import NO_NEIGHBOR

BIN_WIDTH = 32
BINS = (1 << 16) // BIN_WIDTH
LEAST = -(1 << 15)
_SAMPLED = 8  # one in so many products is looked at to guess the floor


@numba.njit(nogil=True, cache=True)
def bin_floor(values, few, histogram):  # type: ignore[no-untyped-def]
    """Give the least value of the bin that holds the ``few``-th largest of int16 values, at least ``few`` (numba)."""
    histogram[:] = 0
    limit = np.int32(0)
    for value in values:
        place = (np.int32(value) - np.int32(LEAST)) // np.int32(BIN_WIDTH)
        histogram[place] += 1
        limit = max(limit, place)
    wanted = histogram[limit]
    while wanted < few:
        limit -= 1
        wanted += histogram[limit]
    return limit * BIN_WIDTH + LEAST


@numba.njit(nogil=True, cache=True)
def list_largest(products, count, few, histogram, values, places):  # type: ignore[no-untyped-def]
    """List those of the first ``count`` float32 products that reach some floor, the ``few`` largest among them (numba).

    Writes int16 ``values`` and int32 ``places``, by ascending place; returns how many. ``products`` may be read up to
    the next multiple of ``REACHED`` after ``count``.
    """
    sample = (count + _SAMPLED - 1) // _SAMPLED
    wanted = few // _SAMPLED + few // (2 * _SAMPLED) + 8  # half as many again, so that hardly ever too few are listed
    listed = 0
    if wanted < sample:
        for place in range(sample):
            values[place] = np.int16(products[_SAMPLED * place])
        listed = _list_reaching(products, count, bin_floor(values[:sample], wanted, histogram), values, places)
    if listed < min(few, count):
        listed = _list_reaching(products, count, LEAST, values, places)
    return listed


@numba.njit(nogil=True, cache=True)
def _list_reaching(products, count, floor, values, places):  # type: ignore[no-untyped-def]
    listed = 0
    for begin in range(0, count, REACHED):
        found = reaching(products, begin, np.float32(floor))
        if found == 0:
            continue
        for place in range(begin, min(begin + REACHED, count)):
            if found >> (place - begin) & 1:
                values[listed], places[listed] = np.int16(products[place]), place
                listed += 1
    return listed


@numba.njit(nogil=True, cache=True)
def select_nearest(values, ids, own, twice, histogram, out, products_out):  # type: ignore[no-untyped-def]
    """Write the ids of the largest ``values`` to ``out``, in order, ties by lower id, without ``own`` (numba).

    Their values go to ``products_out``, if it is not empty; missing places keep what they have. At most ``twice`` ids
    occur twice, with equal values.
    """
    size = len(out)
    floor = np.int32(LEAST)
    if len(values) > size + 1 + twice:  # one more, as the row itself may be among them
        floor = np.int32(bin_floor(values, size + 1 + twice, histogram))
    keys = np.empty(len(values), np.int64)
    count = 0
    for place in range(len(values)):
        if np.int32(values[place]) >= floor and ids[place] != own:
            keys[count] = (-np.int64(values[place]) << 32) | np.int64(ids[place])
            count += 1
    keys = np.sort(keys[:count])
    rank, last = 0, np.int64(-1)
    for key in keys:
        if rank < size and (rank == 0 or key != last):
            out[rank] = np.int32(key & 0xFFFFFFFF)
            if products_out.size:
                products_out[rank] = np.int16(-(key >> 32))
            rank, last = rank + 1, key
    out[rank:] = NO_NEIGHBOR
