"""A metric learned from identities: vectors are centred and whitened by how the rows of one identity differ.

Within-class covariance normalisation (Hatch, Kajarekar and Stolcke, Interspeech 2006): cosines of x -> (x - mean) P
with P P' the inverse of the covariance within identities, shrunk towards a multiple of the identity matrix. An identity
of n rows weighs as if it had sqrt(n - 1) of them, so that a few large ones do not own the metric. A deviation from the
source: it was made for kernels of one classifier per speaker; here it serves cosines between any two rows.
Legend: N rows, n rows of a block, D dimensions, C identities, Q queries, M rows they search, S shrinkages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from engine.learning.tensors import take_array
from engine.random_streams import METRIC_ROWS, stream
from engine.tiles import map_tiles, single_threaded_kernels, tile_bounds

Array = np.ndarray[Any, Any]

SHRINKAGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # the last is next to centring alone
IDENTITY_BALANCE = 0.5
TILE_ROWS = 4_096
QUERY_ROWS = 2_000
DATABASE_ROWS = 50_000
_QUERIES_AT_ONCE = 250
_LISTED = 80


class Metric(NamedTuple):
    """``mean`` (D,) and ``projection`` (D, D), float32."""

    mean: Array
    projection: Array

    def project(self, rows_nD: Array, *, threads: int = 1) -> Array:
        """Unit rows in the metric's space, (n, D) float32; the same bits wherever a row stands in a block."""
        out = np.empty(rows_nD.shape, np.float32)
        mean, projection = torch.from_numpy(self.mean), torch.from_numpy(self.projection)

        def run(tile: tuple[int, int]) -> None:
            begin, end = tile
            padded = torch.zeros(TILE_ROWS, rows_nD.shape[1])
            padded[: end - begin] = torch.from_numpy(np.array(rows_nD[begin:end], np.float32)) - mean
            projected = torch.mm(padded, projection)[: end - begin]
            out[begin:end] = torch.nn.functional.normalize(projected, dim=1).numpy()

        map_tiles(run, tile_bounds(0, len(out), TILE_ROWS), threads)
        return out


class Scatter(NamedTuple):
    """What a metric is computed from, summed over rows: scatters of disjoint identities add up.

    ``within`` (D, D) the weighted scatter within identities and ``weight`` its rows' weights; ``total`` (D,) the sum of
    ``num_rows`` rows; all float64.
    """

    within: Array
    weight: float
    total: Array
    num_rows: int

    def plus(self, other: Scatter) -> Scatter:
        """The scatter of both sets of identities."""
        return Scatter(
            self.within + other.within,
            self.weight + other.weight,
            self.total + other.total,
            self.num_rows + other.num_rows,
        )

    def metric(self, shrinkage: float) -> Metric:
        """The metric of a covariance to which ``shrinkage`` times its mean variance is added in every direction."""
        covariance = self.within / max(self.weight, 1e-30)
        spread = float(np.trace(covariance)) / len(covariance)
        if not spread > 0:  # no identity has two different rows
            covariance, spread = np.eye(len(covariance)), 1.0
        with single_threaded_kernels():
            values, vectors = np.linalg.eigh(covariance + shrinkage * spread * np.eye(len(covariance)))
        projection = vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))
        return Metric((self.total / max(self.num_rows, 1)).astype(np.float32), projection.astype(np.float32))


def sum_scatter(blocks: Iterable[tuple[int, Array]], identities_N: Array, chosen_N: Array, dim: int) -> Scatter:
    """Sum the scatter of the ``chosen_N`` rows of known identity; ``blocks`` gives (first row, rows (n, D)) in order.

    Memory: (C, D) float64 besides the blocks.
    """
    known, places, sizes = np.unique(np.where(chosen_N, identities_N, -1), return_inverse=True, return_counts=True)
    several = (known >= 0) & (sizes > 1)
    weights = np.where(several, 1 / np.maximum(sizes - 1, 1) ** IDENTITY_BALANCE, 0.0)
    sums = torch.zeros(len(known), dim, dtype=torch.float64)
    scatter, total, count = torch.zeros(dim, dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64), 0
    with single_threaded_kernels():
        for first, block_nD in blocks:
            place = places[first : first + len(block_nD)]
            own = np.flatnonzero(known[place] >= 0)
            rows = torch.from_numpy(np.asarray(block_nD[own], np.float32))
            index = torch.from_numpy(place[own])
            sums.index_add_(0, index, rows.double())
            scatter += torch.mm((rows * torch.from_numpy(weights.astype(np.float32))[index, None]).T, rows).double()
            total += rows.sum(dim=0, dtype=torch.float64)
            count += len(own)
        share = torch.from_numpy(weights / sizes)
        scatter -= torch.mm((sums * share[:, None]).T, sums)
    return Scatter(scatter.numpy(), float((weights * sizes).sum()), total.numpy(), count)


def choose_rows(identities_N: Array, chosen_N: Array, seed: int) -> tuple[Array, Array]:
    """Draw whole identities of the chosen rows, up to ``DATABASE_ROWS`` rows, and ``QUERY_ROWS`` queries among them.

    Returns both as ascending row numbers (M,) and (Q,); there is at least one identity.
    """
    rng = stream(seed, METRIC_ROWS)
    known, sizes = np.unique(identities_N[chosen_N & (identities_N >= 0)], return_counts=True)
    order = rng.permutation(len(known))
    drawn = known[order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), DATABASE_ROWS)))]]
    rows = np.flatnonzero(np.isin(identities_N, drawn) & chosen_N)
    return rows, np.sort(rng.choice(rows, min(QUERY_ROWS, len(rows)), replace=False))


def average_precision(unit_MD: Array, identities_M: Array, queries_Q: Array, *, threads: int = 1) -> float:
    """Average precision of the pairs (query, neighbour) by cosine: how well one threshold could tell identities.

    ``queries_Q``: places among the rows. Each query lists its 80 nearest; pairs it does not list count as missed. 1.0
    if no query's identity has another row.
    """
    held, count = torch.from_numpy(unit_MD), min(_LISTED, len(unit_MD) - 1)
    sizes = np.unique(identities_M, return_inverse=True, return_counts=True)
    wanted = int((sizes[2][sizes[1][queries_Q]] - 1).sum())
    if wanted == 0 or count == 0:
        return 1.0

    def run(tile: tuple[int, int]) -> tuple[Array, Array]:
        queries = queries_Q[slice(*tile)]
        products = torch.mm(held[queries], held.T)
        products[torch.arange(len(queries)), torch.from_numpy(queries)] = -2
        values, places = torch.topk(products, count, dim=1)
        return values.numpy().ravel(), (identities_M[places.numpy()] == identities_M[queries, None]).ravel()

    found = map_tiles(run, tile_bounds(0, len(queries_Q), _QUERIES_AT_ONCE), threads)
    similarities, same = (np.concatenate(column) for column in zip(*found, strict=True))
    same = same[np.argsort(-similarities, kind="stable")]
    return float((np.cumsum(same) / np.arange(1, len(same) + 1))[same].sum() / wanted)


def choose_shrinkage(precisions_S: Sequence[float]) -> float:
    """The shrinkage of the highest average precision, the larger of equal ones."""
    best = max(range(len(SHRINKAGES)), key=lambda place: (precisions_S[place], place))
    return SHRINKAGES[best]


def to_tensors(metric: Metric, name: str = "metric") -> dict[str, Array]:
    """Name the metric's arrays, for a file."""
    return {f"{name}.mean": metric.mean, f"{name}.projection": metric.projection}


def from_tensors(tensors: dict[str, Array], name: str = "metric") -> Metric:
    """Build the metric that ``to_tensors`` named the arrays of."""
    mean = take_array(tensors, f"{name}.mean", "float32", None)
    return Metric(mean, take_array(tensors, f"{name}.projection", "float32", len(mean), len(mean)))
