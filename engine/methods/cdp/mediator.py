"""CDP's mediator: what a committee of graphs over the same rows says of a pair (Zhan et al., ECCV 2018, section 3.3).

Legend: E pairs, C committee members, I inputs: 3 C + 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import DataError
from engine.graph.adjacency import rank_listed
from engine.graph.structural_inputs import fill_cosines
from engine.learning.held_out import area_under_curve
from engine.learning.layers import drawn_weights, padded_tile
from engine.learning.loop import Checkpoint, Evaluation, TrainingLoop
from engine.learning.settings import TrainSettings
from engine.random_streams import MINIBATCH, STOPPING_ROWS, stream
from engine.sections import fingerprint
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

TILE_PAIRS = 4_096
HELD_OUT_PAIRS = 60_000


@dataclass(frozen=True)
class Member:
    """The base or a committee member: its graph (N, K), the vertex of each row (N,), unless they are the same.

    ``features_ND``: unit vectors (N, D) float16 by row, of a member.
    """

    neighbors_NK: Array
    vertex_of_row: Array | None = None
    features_ND: Array | None = None

    def vertices(self, rows_E: Array) -> Array:
        return rows_E if self.vertex_of_row is None else self.vertex_of_row[rows_E]


def count_votes(members: Sequence[Member], first_E: Array, second_E: Array) -> Array:
    """How many members list a pair of rows, in either direction: (E,) uint8."""
    votes = np.zeros(len(first_E), np.uint8)
    for member in members:
        votes += _neighbors(member, first_E, second_E)[0]
    return votes


def pair_inputs(
    base: Member, members: Sequence[Member], first_E: Array, second_E: Array, cosines_E: Array, *, threads: int = 1
) -> Array:
    """Compute (E, I) float32: relationship (C bits), affinity (C + 1 cosines), structure (C + 1 shared neighbours).

    ``first_E`` and ``second_E``: rows; ``cosines_E``: in the base. Shared neighbours are counted as shares of K.
    """
    count = len(members)
    inputs = np.empty((len(first_E), 3 * count + 2), np.float32)
    inputs[:, count] = cosines_E

    def run(tile: tuple[int, int]) -> None:
        part = slice(*tile)
        first, second, out = first_E[part], second_E[part], inputs[part]
        out[:, 2 * count + 1] = _neighbors(base, first, second)[1]
        for place, member in enumerate(members):
            listed, shared = _neighbors(member, first, second)
            out[:, place], out[:, 2 * count + 2 + place] = listed, shared
            cosines = np.empty(len(first), np.float32)
            assert member.features_ND is not None
            fill_cosines(member.features_ND, first, second, cosines)
            out[:, count + 1 + place] = cosines

    map_tiles(run, tile_bounds(0, len(inputs), TILE_PAIRS), threads)
    return inputs


class Mediator(nn.Module):
    """A perceptron of two hidden layers, three times as wide as its inputs, over standardised inputs."""

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        width = 3 * num_inputs
        self.register_buffer("input_mean", torch.zeros(num_inputs))
        self.register_buffer("input_scale", torch.ones(num_inputs))
        self.input_mean: Tensor
        self.input_scale: Tensor
        self.layers = nn.Sequential(
            nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, inputs_EI: Tensor) -> Tensor:
        """Return the logits (E,) that both rows are of one identity."""
        logits: Tensor = self.layers((inputs_EI - self.input_mean) * self.input_scale)
        return logits.squeeze(1)


def build_mediator(num_inputs: int, seed: int) -> Mediator:
    """Build one with weights drawn from ``seed`` alone."""
    with drawn_weights(seed):
        return Mediator(num_inputs)


def train_mediator(
    inputs_EI: Array,
    same_E: Array,
    held_out_E: Array,
    *,
    config: TrainSettings,
    seed: int,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Mediator, list[Evaluation]]:
    """Fit it to pairs, drawn all alike, by cross-entropy; stopped on those held out. Raises ``DataError``."""
    fitted, held = np.flatnonzero(~held_out_E), np.flatnonzero(held_out_E)
    held = np.sort(stream(seed, STOPPING_ROWS).permutation(held)[:HELD_OUT_PAIRS])
    if not 0 < same_E[fitted].sum() < len(fitted) or not 0 < same_E[held].sum() < len(held):
        raise DataError("training: pairs of one identity and of two are needed, to learn from and held out")
    mediator = build_mediator(inputs_EI.shape[1], seed)
    mediator.input_mean.copy_(torch.from_numpy(inputs_EI[fitted].mean(axis=0, dtype=np.float64)))
    mediator.input_scale.copy_(torch.from_numpy(1 / (inputs_EI[fitted].std(axis=0, dtype=np.float64) + 1e-3)))

    def loss_at(places: Array) -> tuple[Tensor, Tensor]:
        logits = mediator(torch.from_numpy(inputs_EI[places]))
        return functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(same_E[places]).to(logits)), logits

    def loss_of_step(step: int) -> Tensor:
        drawn = stream(seed, MINIBATCH, step).integers(0, len(fitted), config.edges_per_step)
        return loss_at(fitted[drawn])[0]

    def evaluate() -> tuple[float, float | None]:
        loss, logits = loss_at(held)
        return float(loss), area_under_curve(logits.numpy(), same_E[held])

    loop = TrainingLoop(mediator, config, fingerprint([config, seed, *inputs_EI.shape]))
    step = loop.restore(checkpoint)
    loop.run(step, loss_of_step=loss_of_step, evaluate=evaluate, checkpoint=checkpoint, progress=progress)
    return mediator, loop.history


def mediate(mediator: Mediator, inputs_EI: Array, *, threads: int = 1) -> Array:
    """The probability that each pair is of one identity: (E,) float32, in tiles of fixed shape."""
    scores = np.empty(len(inputs_EI), np.float32)

    def run(tile: tuple[int, int]) -> None:
        a, b = tile
        with torch.no_grad():
            given = padded_tile(inputs_EI[a:b], TILE_PAIRS, "cpu")
            scores[a:b] = torch.sigmoid(mediator(given))[: b - a].numpy()

    map_tiles(run, tile_bounds(0, len(scores), TILE_PAIRS), threads)
    return scores


def _neighbors(member: Member, first_E: Array, second_E: Array) -> tuple[Array, Array]:
    """Whether either end lists the other, and the share of K that both list."""
    listed, shared = np.empty(len(first_E), np.bool_), np.empty(len(first_E), np.float32)
    _count_neighbors(member.neighbors_NK, member.vertices(first_E), member.vertices(second_E), listed, shared)
    return listed, shared


@numba.njit(nogil=True, cache=True)
def _count_neighbors(neighbors: Array, first: Array, second: Array, listed: Array, shared: Array) -> None:
    for pair in range(len(first)):
        own, other = neighbors[first[pair]], neighbors[second[pair]]
        listed[pair] = rank_listed(own, second[pair]) >= 0 or rank_listed(other, first[pair]) >= 0
        both = 0
        for vertex in own:
            both += int(vertex >= 0 and rank_listed(other, vertex) >= 0)
        shared[pair] = np.float32(both) / np.float32(len(own))
