"""GCN-V's confidence of a vertex and the links that follow from it (Yang et al., CVPR 2020, sections 3.2 and 3.4).

Legend: N vertices, n rows of a block, D feature dimension, H width of the convolution, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import DataError
from engine.graph.sampling import balance_rows, draw_places
from engine.graph.structural_inputs import fill_cosines
from engine.learning.held_out import hold_out
from engine.learning.layers import EMBED_ROWS, GraphConvolution, drawn_weights, padded_tile
from engine.learning.loop import Checkpoint, Evaluation, TrainingLoop
from engine.learning.settings import TrainSettings
from engine.methods.gcn_v.settings import GcnVSettings
from engine.random_streams import MINIBATCH, STOPPING_ROWS, stream
from engine.sections import fingerprint
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

LINK_ROWS = 1_024
HELD_OUT_ROWS = 20_000


class ConfidenceNetwork(nn.Module):
    """One graph convolution, which embeds a vertex, and two layers that give its confidence."""

    def __init__(self, dimension: int, config: GcnVSettings) -> None:
        super().__init__()
        self.convolution = GraphConvolution(dimension, config.hidden)
        self.first = nn.Linear(config.hidden, config.hidden)
        self.activation = nn.PReLU(config.hidden)
        self.last = nn.Linear(config.hidden, 1)

    def forward(self, features_nD: Tensor, aggregated_nD: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (n, H) and confidences (n,)."""
        embedded = self.convolution(features_nD, aggregated_nD)
        return embedded, self.last(self.activation(self.first(embedded))).squeeze(1)


@dataclass(frozen=True)
class ConfidenceData:
    """What training reads: unit vectors, rows of Âx, both float16, the targets (N,) float32, and identities (N,)."""

    features_ND: Array
    aggregated_ND: Array
    targets_N: Array
    identities_N: Array


def build_network(dimension: int, config: GcnVSettings, seed: int) -> ConfidenceNetwork:
    """Build a network with weights drawn from ``seed`` alone."""
    with drawn_weights(seed):
        return ConfidenceNetwork(dimension, config)


def confidence_targets(neighbors_NK: Array, similarities_NK: Array, identities_N: Array) -> Array:
    """Σ of a vertex's similarities to neighbours, those of other identities negative, over the largest: (N,) float32.

    A neighbour of unknown identity counts as another's. Source: section 3.2, equation 1, in the released code's scale.
    """
    sums_N = np.empty(len(neighbors_NK), np.float32)
    for start, stop in tile_bounds(0, len(sums_N), LINK_ROWS):
        _signed_sums(
            np.ascontiguousarray(neighbors_NK[start:stop]),
            np.ascontiguousarray(similarities_NK[start:stop]),
            identities_N,
            start,
            sums_N[start:stop],
        )
    return sums_N / max(float(np.abs(sums_N).max(initial=0)), 1e-6)


def train_confidence(
    data: ConfidenceData,
    *,
    model: GcnVSettings,
    config: TrainSettings,
    identity_balance: float,
    seed: int,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
    device: str = "cpu",
) -> tuple[ConfidenceNetwork, list[Evaluation]]:
    """Fit the confidences of known rows by mean squared error, stopped on identities held out.

    As Âx is fixed, a vertex's confidence hangs on its own two rows alone, and a minibatch of vertices is the published
    full-graph step on a sample. Deviation: rows are drawn by their identity's size to the power -``identity_balance``,
    so that a few large ones do not own the loss. Resumed training gives the bits of uninterrupted training.
    """
    held_out_N = hold_out(data.identities_N, config.holdout, seed)
    fitted = np.flatnonzero((data.identities_N >= 0) & ~held_out_N)
    held = np.flatnonzero(held_out_N)
    if len(held) > HELD_OUT_ROWS:
        held = np.sort(stream(seed, STOPPING_ROWS).permutation(held)[:HELD_OUT_ROWS])
    if not len(fitted):
        raise DataError("training: every row of known identity is held out; lower train.holdout")
    weights = balance_rows(data.identities_N[fitted], identity_balance)
    network = build_network(data.features_ND.shape[1], model, seed).to(device)
    count = min(model.vertices_per_step or len(fitted), len(fitted))

    def loss_at(rows: Array) -> Tensor:
        given = (torch.from_numpy(part[rows].astype(np.float32)) for part in (data.features_ND, data.aggregated_ND))
        found = network(*(part.to(device) for part in given))[1]
        return functional.mse_loss(found, torch.from_numpy(data.targets_N[rows]).to(device))

    def loss_of_step(step: int) -> Tensor:
        if count == len(fitted):
            return loss_at(fitted)
        return loss_at(fitted[draw_places(stream(seed, MINIBATCH, step), weights, count)])

    settings = fingerprint([model, config, identity_balance, seed, *data.features_ND.shape])
    loop = TrainingLoop(network, config, settings, device)
    loop.run(
        loop.restore(checkpoint),
        loss_of_step=loss_of_step,
        evaluate=lambda: (float(loss_at(held)), None),
        checkpoint=checkpoint,
        progress=progress,
    )
    return network, loop.history


def embed_vertices(
    network: ConfidenceNetwork, features_nD: Array, aggregated_nD: Array, *, threads: int = 1, device: str = "cpu"
) -> tuple[Array, Array]:
    """Compute a block's unit embeddings (n, H) float16 and confidences (n,) float32, in fixed padded tiles."""
    network = network.eval().to(device)
    codes = np.empty((len(features_nD), network.first.in_features), np.float16)
    confidence = np.empty(len(codes), np.float32)

    def run(tile: tuple[int, int]) -> None:
        a, b = tile
        rows = [padded_tile(part[a:b], EMBED_ROWS, device) for part in (features_nD, aggregated_nD)]
        with torch.no_grad():
            embedded, found = network(*rows)
            codes[a:b] = functional.normalize(embedded, dim=1)[: b - a].half().cpu().numpy()
            confidence[a:b] = found[: b - a].cpu().numpy()

    map_tiles(run, tile_bounds(0, len(codes), EMBED_ROWS), threads)
    return codes, confidence


def listed_cosines(codes_NH: Array, neighbors_nK: Array, start: int, *, threads: int = 1) -> Array:
    """Compute the cosines of rows ``start``.. with what they list: (n, K) float32, -2 where nothing is listed."""
    cosines = np.full(neighbors_nK.shape, -2, np.float32)

    def run(tile: tuple[int, int]) -> None:
        a, b = tile
        row, rank = np.nonzero(neighbors_nK[a:b] >= 0)
        found = np.empty(len(row), np.float32)
        fill_cosines(codes_NH, (row + a + start).astype(np.int32), neighbors_nK[a:b][row, rank], found)
        cosines[a:b][row, rank] = found

    map_tiles(run, tile_bounds(0, len(cosines), LINK_ROWS), threads)
    return cosines


def nearest_confident(neighbors_nK: Array, cosines_nK: Array, confidence_N: Array, start: int) -> tuple[Array, Array]:
    """Find each row's nearest listed neighbour of strictly higher confidence: (n,) int32, -1 if none, and its cosine.

    Of equal cosines the lower id. Links lead upwards in confidence, so they never close a circle (section 3.4).
    """
    targets, cosines = np.full(len(neighbors_nK), -1, np.int32), np.full(len(neighbors_nK), -2, np.float32)
    _nearest_confident(np.ascontiguousarray(neighbors_nK), cosines_nK, confidence_N, start, targets, cosines)
    return targets, cosines


def link_scores(sources_E: Array, targets_E: Array, linked_N: Array, cosines_N: Array) -> Array:
    """Score undirected edges: the cosine of a link, -1 of an edge that is none; (E,) float32."""
    forward, backward = linked_N[sources_E] == targets_E, linked_N[targets_E] == sources_E
    cosines_E = np.where(forward, cosines_N[sources_E], cosines_N[targets_E])
    return np.where(forward | backward, cosines_E, -1).astype(np.float32)


@numba.njit(nogil=True, cache=True)
def _signed_sums(neighbors: Array, similarities: Array, identities: Array, start: int, out: Array) -> None:
    for row in range(len(neighbors)):
        total = np.float32(0.0)
        for rank in range(neighbors.shape[1]):
            other = neighbors[row, rank]
            if other < 0:
                break
            same = identities[start + row] >= 0 and identities[other] == identities[start + row]
            total += similarities[row, rank] if same else -similarities[row, rank]
        out[row] = total


@numba.njit(nogil=True, cache=True)
def _nearest_confident(
    neighbors: Array, cosines: Array, confidence: Array, start: int, targets: Array, found: Array
) -> None:
    for row in range(len(neighbors)):
        for rank in range(neighbors.shape[1]):
            other = neighbors[row, rank]
            if other < 0:
                break
            if confidence[other] <= confidence[start + row]:
                continue
            value = cosines[row, rank]
            if value > found[row] or (value == found[row] and other < targets[row]):
                targets[row], found[row] = other, value
