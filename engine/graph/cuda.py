"""The KNN searches in torch, for CUDA devices; each function also runs, slowly, on the CPU.

Legend: N rows, M queries, D dimensions, K neighbours, C cells, P probes, W code width.

Products of codes are exact integers (int8 tensor cores), so cells and probes equal the CPU's to the bit. Exact search
multiplies float16 rows with float32 sums. Its similarities are then computed again as on the CPU, so only the order of
neighbours whose similarities differ by less than 1e-6 can differ from the CPU's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from engine.graph.cells import Cells, Finder, groups_to_search
from engine.graph.largest import BIN_WIDTH
from engine.graph.similarity import listed_similarities, sort_neighbors
from engine.units import NO_NEIGHBOR

Array = np.ndarray[Any, Any]

QUERY_ROWS = 4096
DATABASE_ROWS = 131_072
CELL_PRODUCTS = 1 << 28
GROUP = 64
FEW_GROUPS = 16


def to_device(rows_ND: Array, device: str) -> torch.Tensor:
    """Copy rows to a device, a piece at a time, because memory-mapped rows need not fit the host's memory."""
    dtype = torch.from_numpy(np.empty(0, rows_ND.dtype)).dtype
    out = torch.empty(rows_ND.shape, dtype=dtype, device=device)
    for begin in range(0, len(rows_ND), DATABASE_ROWS):
        out[begin : begin + DATABASE_ROWS] = torch.from_numpy(np.array(rows_ND[begin : begin + DATABASE_ROWS]))
    return out


def exact_neighbors(
    features_ND: Array, held_ND: torch.Tensor, start: int, stop: int, k: int, usable_N: Array | None, threads: int
) -> tuple[Array, Array]:
    """Search rows ``start..stop`` against all rows; returns what ``engine.graph.knn.exact_neighbors`` does.

    ``held_ND``: the same rows on the device, by ``to_device``.
    """
    unusable = None if usable_N is None else torch.from_numpy(np.flatnonzero(~usable_N)).to(held_ND.device)
    found = np.empty((stop - start, k), np.int32)
    for begin in range(start, stop, QUERY_ROWS):
        end = min(begin + QUERY_ROWS, stop)
        found[begin - start : end - start] = _search(held_ND, begin, end, k, unusable)
    if usable_N is not None:
        found[~usable_N[start:stop]] = NO_NEIGHBOR
    similarities = listed_similarities(features_ND, np.arange(start, stop), found, threads=threads)
    sort_neighbors(found, similarities, threads=threads)
    return found, similarities


def load_cells(cells: Cells, device: str) -> Finder:
    """Prepare the search for the nearest cells on a device; its results equal those of ``cells.load_cells``."""
    leaders_GW, centroids_CW = to_device(cells.leaders, device), to_device(cells.centroids, device)
    groups = np.repeat(np.arange(len(cells.leaders)), np.diff(cells.offsets))
    group_of_cell = torch.from_numpy(groups).to(device)
    num_groups, step = len(leaders_GW), max(1, min(QUERY_ROWS, CELL_PRODUCTS // len(centroids_CW)))

    def find(codes_nW: Array, probes: int) -> Array:
        out = np.empty((len(codes_nW), min(probes, len(centroids_CW))), np.int32)
        few = groups_to_search(probes, num_groups)
        for begin in range(0, len(out), step):
            rows = torch.from_numpy(np.array(codes_nW[begin : begin + step])).to(device)
            keys = _ranked(_integer_products(rows, centroids_CW))
            if few < num_groups:
                near = _integer_products(rows, leaders_GW)
                floors = torch.topk(near, few, dim=1).values[:, -1:] // BIN_WIDTH * BIN_WIDTH
                keys[(near < floors)[:, group_of_cell]] = torch.iinfo(keys.dtype).min
            out[begin : begin + len(rows)] = torch.topk(keys, out.shape[1], dim=1).indices.to(torch.int32).cpu().numpy()
        return out

    return find


def _ranked(products_MC: torch.Tensor) -> torch.Tensor:
    """Give keys that order products: a larger product first, and of equal products the lower column."""
    columns = products_MC.shape[1]
    keys = products_MC.to(torch.int64).mul_(columns)
    return keys.add_(torch.arange(columns - 1, -1, -1, device=products_MC.device))


def _search(held_ND: torch.Tensor, begin: int, end: int, k: int, unusable: torch.Tensor | None) -> Array:
    queries_MD = held_ND[begin:end]
    values = torch.full((end - begin, k), -torch.inf, device=held_ND.device)
    ids = torch.full((end - begin, k), NO_NEIGHBOR, dtype=torch.int64, device=held_ND.device)
    for first in range(0, len(held_ND), DATABASE_ROWS):
        last = min(first + DATABASE_ROWS, len(held_ND))
        products_MB = _products(queries_MD, held_ND[first:last])
        if unusable is not None:
            products_MB[:, unusable[(unusable >= first) & (unusable < last)] - first] = -torch.inf
        a, b = max(begin, first), min(end, last)
        if a < b:
            own = torch.arange(a, b, device=held_ND.device)
            products_MB[own - begin, own - first] = -torch.inf
        new_values, places = _largest(products_MB, k, values[:, -1])
        values, chosen = torch.topk(torch.cat([values, new_values], dim=1), k, dim=1)
        ids = torch.gather(torch.cat([ids, places + first], dim=1), 1, chosen)
    ids[values == -torch.inf] = NO_NEIGHBOR
    return ids.to(torch.int32).cpu().numpy()


def _largest(products_MB: torch.Tensor, k: int, floors_M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find each row's largest products that can pass its floor, at most ``k``: their values and columns.

    The K largest products lie in the K groups of 64 columns with the largest maxima. One comparison tells which groups
    pass the floor at all; mostly those are few.
    """
    num_rows, num_columns = products_MB.shape
    padded = -(-num_columns // GROUP) * GROUP
    if padded > num_columns:
        products_MB = torch.nn.functional.pad(products_MB, (0, padded - num_columns), value=-torch.inf)
    grouped = products_MB.view(num_rows, padded // GROUP, GROUP)
    maxima = grouped.amax(dim=2)
    num_groups = min(k, maxima.shape[1])
    few = min(FEW_GROUPS, num_groups)
    best = torch.topk(maxima, min(few + 1, maxima.shape[1]), dim=1)
    if few < num_groups and bool((best.values[:, -1] > floors_M).any()):
        groups = torch.topk(maxima, num_groups, dim=1).indices
    else:
        groups = best.indices[:, :few]
    members = torch.gather(grouped, 1, groups[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    values, places = torch.topk(members, min(k, members.shape[1]), dim=1)
    columns = torch.gather(groups, 1, places // GROUP) * GROUP + places % GROUP
    return values, columns


def _products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply float16 or float32 rows to float32, without rounding to float16 or TF32."""
    if left.is_cuda and left.dtype == torch.float16:
        return torch.mm(left, right.T, out_dtype=torch.float32)
    return torch.mm(left.float(), right.float().T)


def _integer_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply int8 codes to exact int32."""
    if not left.is_cuda:
        return torch.mm(left.float(), right.float().T).to(torch.int32)
    rows, columns = len(left), len(right)
    if rows < 32:  # the library multiplies no fewer
        left = torch.nn.functional.pad(left, (0, 0, 0, 32 - rows))
    if columns % 8:
        right = torch.nn.functional.pad(right, (0, 0, 0, 8 - columns % 8))
    return torch._int_mm(left, right.T)[:rows, :columns]
