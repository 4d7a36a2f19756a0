"""Gradient-boosted trees over edge inputs: complete trees of one depth, fitted and applied without another library.

Legend: E edges, F inputs, T trees, L levels; I = 2^L - 1 inner nodes of a tree, node n's children 2n + 1 and 2n + 2.
Fitting gives the same bits for any number of threads: each input's histogram is summed by one thread in row order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np

from engine.errors import DataError
from engine.methods.structural.settings import TreesSettings
from engine.random_streams import TREES, stream
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

MAX_BINS = 128
MOST_LEVELS, MOST_TREES = 16, 1 << 16
BIN_SAMPLE = 200_000
TILE_EDGES = 1_024  # of one pass over all trees: a tile's inputs stay in a core's cache


@dataclass(frozen=True)
class Trees:
    """Boosted trees as plain arrays; a row goes left at a node if its input is at most the threshold.

    ``inputs`` (T, I) int16, ``thresholds`` (T, I) float32, ``values`` (T, I + 1) float32, ``bias`` the first log-odds.
    Raises ``DataError`` for arrays that are no such trees: the compiled kernel reads memory where they point.
    """

    inputs: Array
    thresholds: Array
    values: Array
    bias: float
    num_inputs: int = field(init=False)  # least number of columns that rows must have

    def __post_init__(self) -> None:
        num_trees, inner = self.inputs.shape if self.inputs.ndim == 2 else (0, 0)
        levels = (inner + 1).bit_length() - 1
        if inner != (1 << levels) - 1 or not 1 <= levels <= MOST_LEVELS or not 1 <= num_trees <= MOST_TREES:
            raise DataError(f"trees: splits of shape {self.inputs.shape}, expected (trees, 2^levels - 1)")
        expected = (
            ("int16", self.inputs, inner),
            ("float32", self.thresholds, inner),
            ("float32", self.values, inner + 1),
        )
        for dtype, array, width in expected:
            if array.dtype != np.dtype(dtype) or array.shape != (num_trees, width):
                raise DataError(
                    f"trees: an array is {array.dtype} of shape {array.shape}, expected {dtype} of shape "
                    f"{(num_trees, width)}"
                )
        if self.inputs.min() < 0 or np.isnan(self.thresholds).any() or not np.isfinite(self.values).all():
            raise DataError("trees: an input is below 0, a threshold is NaN, or a value is not finite")
        if not np.isfinite(self.bias):
            raise DataError(f"trees: expected finite first log-odds, got {self.bias}")
        object.__setattr__(self, "num_inputs", int(self.inputs.max()) + 1)

    def check_columns(self, count: int) -> None:
        """Raise ``DataError`` if the trees ask for a column beyond ``count``."""
        if self.num_inputs > count:
            raise DataError(f"trees: split on input {self.num_inputs - 1}, expected inputs 0 to {count - 1}")

    def logits(self, inputs_EF: Array, *, threads: int = 1) -> Array:
        """Log-odds of each row of float32 inputs: (E,) float32."""
        self.check_columns(inputs_EF.shape[1])
        result = np.empty(len(inputs_EF), np.float32)

        def run(tile: tuple[int, int]) -> None:
            part = slice(*tile)
            fill_logits(self.inputs, self.thresholds, self.values, np.float32(self.bias), inputs_EF[part], result[part])

        map_tiles(run, tile_bounds(0, len(result), TILE_EDGES), threads)
        return result


def fit_trees(
    inputs_EF: Array,
    targets_E: Array,
    weights_E: Array,
    held_out_E: Array,
    config: TreesSettings,
    *,
    seed: int,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Trees:
    """Fit boosted trees to the log loss of boolean ``targets_E``, weighted; stop where the held-out loss is least.

    Each tree may split on a random share of the inputs, drawn from the seed. Rows of ``held_out_E`` (bool) are never
    trained on; without any, all trees are grown. Newton steps (XGBoost, KDD 2016, equations 5 to 7). Memory: one byte
    per input and row, and 40 per row. Raises ``DataError`` if the rows left are all of one kind.
    """
    fitted = np.flatnonzero(~held_out_E)
    targets, weights = targets_E.astype(np.float32), weights_E.astype(np.float32)
    if len(fitted) == 0 or targets[fitted].min() == targets[fitted].max():
        raise DataError("trees: edges of one identity and edges between two are needed to learn from; found one kind")
    rng = stream(seed, TREES)
    edges = _bin_edges(inputs_EF[fitted], rng)
    binned = _bin(inputs_EF, edges, threads)
    share = float(np.average(targets[fitted], weights=weights[fitted]))
    bias = np.float32(np.log(share / (1 - share)))
    logits = np.full(len(targets), bias, np.float32)
    held, inner = np.flatnonzero(held_out_E & (weights > 0)), (1 << config.levels) - 1
    grown: list[tuple[Array, Array, Array]] = []
    best, best_loss = 0, np.inf
    for number in range(config.num_trees):
        share_E = 1 / (1 + np.exp(-logits))
        gradients = (weights * (share_E - targets)).astype(np.float32)
        curvatures = (weights * share_E * (1 - share_E)).astype(np.float32)
        gradients[held] = curvatures[held] = 0
        offered = np.sort(rng.permutation(len(edges))[: max(1, round(config.input_share * len(edges)))])
        nodes, splits = np.zeros(len(targets), np.int32), np.full((inner, 2), -1, np.int32)
        for level in range(config.levels):
            found = map_tiles(
                lambda columns, nodes=nodes, level=level, pair=(gradients, curvatures): _best_splits(  # type: ignore[misc]
                    binned, columns, nodes, *pair, level, config.l2, config.min_weight
                ),
                np.array_split(offered, min(len(offered), 4 * threads)),
                threads,
            )
            gains, lasts = (np.concatenate(part) for part in zip(*found, strict=True))
            for place in range(1 << level):
                winner = int(np.argmax(gains[:, place]))
                if gains[winner, place] > 0:
                    splits[(1 << level) - 1 + place] = offered[winner], lasts[winner, place]
            _descend(binned, nodes, splits)
        values = _leaf_values(nodes, gradients, curvatures, inner, config.l2, config.rate)
        logits += values[nodes - inner]
        columns = np.maximum(splits[:, 0], 0)
        limits = np.array(
            [edges[c][b] if s >= 0 else np.inf for c, b, s in zip(columns, splits[:, 1], splits[:, 0], strict=True)]
        )
        grown.append((columns.astype(np.int16), limits.astype(np.float32), values))
        if progress is not None:
            progress(number + 1, config.num_trees)
        if len(held):
            losses = np.logaddexp(0, np.where(targets[held] > 0, -logits[held], logits[held]))
            loss = float(np.average(losses, weights=weights[held]))
            if loss < best_loss:
                best, best_loss = number + 1, loss
            elif number + 1 - best >= config.patience:
                break
    kept = grown[:best] if len(held) else grown
    inputs, thresholds, values = (np.stack(part) for part in zip(*kept, strict=True))
    return Trees(inputs, thresholds, values, float(bias))


@numba.njit(nogil=True, cache=True)
def fill_logits(inputs: Array, thresholds: Array, values: Array, bias: Any, rows: Array, out: Array) -> None:
    """Write the log-odds of a tile's rows into ``out`` on the calling thread; trees are added in order."""
    inner = inputs.shape[1]
    out[:] = bias
    for tree in range(len(inputs)):
        column, threshold, value = inputs[tree], thresholds[tree], values[tree]
        for row in range(len(rows)):
            node = 0
            while node < inner:
                node = 2 * node + 1 + int(rows[row, column[node]] > threshold[node])
            out[row] += value[node - inner]


def _bin_edges(inputs: Array, rng: np.random.Generator) -> list[Array]:
    """Choose each input's thresholds: at most ``MAX_BINS`` - 1 of its quantiles, midway between values."""
    if len(inputs) > BIN_SAMPLE:
        inputs = inputs[np.sort(rng.choice(len(inputs), BIN_SAMPLE, replace=False))]
    edges = []
    for column in inputs.T:
        found = np.unique(np.quantile(column, np.arange(1, MAX_BINS) / MAX_BINS, method="lower"))
        edges.append(found[found < column.max()].astype(np.float32))
    return edges


def _bin(inputs: Array, edges: list[Array], threads: int) -> Array:
    binned = np.empty((inputs.shape[1], len(inputs)), np.uint8)

    def run(column: int) -> None:
        binned[column] = np.searchsorted(edges[column], inputs[:, column], side="left")

    map_tiles(run, range(len(edges)), threads)
    return binned


@numba.njit(nogil=True, cache=True)
def _best_splits(
    binned: Array,
    columns: Array,
    nodes: Array,
    gradients: Array,
    curvatures: Array,
    level: int,
    l2: float,
    min_weight: float,
) -> tuple[Array, Array]:
    """Find each input's best split of each node of a level: gains (0: none) and the last bin that goes left."""
    count, first = 1 << level, (1 << level) - 1
    gains, lasts = np.zeros((len(columns), count), np.float64), np.zeros((len(columns), count), np.int32)
    for number, column in enumerate(columns):
        bins, sums = binned[column], np.zeros((count, MAX_BINS, 2), np.float64)
        for row in range(len(bins)):
            node, place = nodes[row] - first, bins[row]
            sums[node, place, 0] += gradients[row]
            sums[node, place, 1] += curvatures[row]
        for node in range(count):
            gradient, curvature = sums[node, :, 0].sum(), sums[node, :, 1].sum()
            whole = gradient * gradient / (curvature + l2)
            left, left_curvature = 0.0, 0.0
            for last in range(MAX_BINS - 1):
                left += sums[node, last, 0]
                left_curvature += sums[node, last, 1]
                right, right_curvature = gradient - left, curvature - left_curvature
                if min(left_curvature, right_curvature) * 4 < min_weight:  # a row in doubt has a curvature of 1/4
                    continue
                gain = left * left / (left_curvature + l2) + right * right / (right_curvature + l2) - whole
                if gain > gains[number, node] + 1e-9:
                    gains[number, node], lasts[number, node] = gain, last
    return gains, lasts


@numba.njit(nogil=True, cache=True)
def _descend(binned: Array, nodes: Array, splits: Array) -> None:
    for row in range(len(nodes)):
        node = nodes[row]
        column = splits[node, 0]
        right = column >= 0 and binned[column, row] > splits[node, 1]
        nodes[row] = 2 * node + 1 + int(right)


@numba.njit(nogil=True, cache=True)
def _leaf_values(nodes: Array, gradients: Array, curvatures: Array, inner: int, l2: float, rate: float) -> Array:
    sums = np.zeros((inner + 1, 2), np.float64)
    for row in range(len(nodes)):
        sums[nodes[row] - inner, 0] += gradients[row]
        sums[nodes[row] - inner, 1] += curvatures[row]
    values = -rate * sums[:, 0] / (sums[:, 1] + l2)
    return np.where(np.isfinite(values), values, 0.0).astype(np.float32)  # without l2 an empty leaf is 0 / 0
