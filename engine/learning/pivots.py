"""Networks over pivot subgraphs: is a member of the pivot's identity? Of L-GCN and GCN-E.

Legend: B pivots of a batch, M members of all of them, D feature dimension, H width of a layer, S scored members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import DataError
from engine.graph.pivots import PivotBatch, mean_rows
from engine.graph.sampling import balance_rows, draw_places
from engine.learning.held_out import area_under_curve, hold_out
from engine.learning.layers import drawn_weights
from engine.learning.loop import Checkpoint, Evaluation, TrainingLoop
from engine.learning.settings import TrainSettings
from engine.random_streams import MINIBATCH, STOPPING_ROWS, stream
from engine.sections import fingerprint
from engine.tiles import single_threaded_kernels

Array = np.ndarray[Any, Any]

FAST_BFLOAT16 = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())  # bool() is False
PRODUCT_ROWS = 2_048  # rows of a bfloat16 product are filled up to so many: torch keeps a kernel of each shape met
HELD_OUT_PIVOTS = 384
STANDARDISED_PIVOTS = 256


class MeanNeighbors(torch.autograd.Function):
    """The mean of each member's neighbours' rows; the adjacency being symmetric, its gradient is such a sum."""

    @staticmethod
    def forward(context: Any, rows_MH: Tensor, indptr: Array, indices: Array) -> Tensor:
        context.graph = indptr, indices
        return _average(rows_MH, indptr, indices, scale=True)

    @staticmethod
    def backward(context: Any, gradient_MH: Tensor) -> tuple[Tensor, None, None]:
        indptr, indices = context.graph
        degrees = torch.from_numpy(np.maximum(np.diff(indptr), 1).astype(np.float32)).to(gradient_MH)
        return _average(gradient_MH / degrees.unsqueeze(1), indptr, indices, scale=False), None, None


def _average(rows_MH: Tensor, indptr: Array, indices: Array, *, scale: bool) -> Tensor:
    if rows_MH.is_cuda:
        degrees = torch.from_numpy(np.diff(indptr)).to(rows_MH.device)
        owners = torch.repeat_interleave(torch.arange(len(degrees), device=rows_MH.device), degrees)
        total = torch.zeros_like(rows_MH).index_add_(0, owners, rows_MH[torch.from_numpy(indices).to(rows_MH.device)])
        return total / degrees.clamp(min=1).unsqueeze(1) if scale else total
    out = torch.empty_like(rows_MH)
    mean_rows(indptr, indices, rows_MH.detach().contiguous().numpy(), scale, out.numpy())
    return out


class PivotSettings(Protocol):
    """The settings of a network over pivots: widths of its convolutions, of its classifier, and pivots of a step."""

    @property
    def widths(self) -> tuple[int, ...]: ...
    @property
    def hidden(self) -> int: ...
    @property
    def pivots_per_step(self) -> int: ...


class PivotNetwork(nn.Module):
    """Graph convolutions over members' vectors relative to their pivot's, then a classifier of two layers.

    Each convolution is ReLU(W [h ; mean of the neighbours' h]). The vectors are standardised by a mean and a deviation
    measured once, before training, on members alone (deviation: batch normalisation without affine, whose statistics
    the released code takes over padding too). The two classes' logits are given as their difference.
    """

    def __init__(self, dimension: int, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(dimension))
        self.register_buffer("input_scale", torch.ones(dimension))
        self.input_mean: Tensor
        self.input_scale: Tensor
        sizes = [dimension, *widths]
        self.convolutions = nn.ModuleList(
            nn.Linear(2 * given, width) for given, width in zip(sizes[:-1], widths, strict=True)
        )
        self.first = nn.Linear(widths[-1], hidden)
        self.activation = nn.PReLU(hidden)
        self.last = nn.Linear(hidden, 1)

    def standardise(self, relative_MD: Tensor) -> None:
        """Take mean and deviation of each coordinate from members."""
        self.input_mean.copy_(relative_MD.mean(dim=0))
        self.input_scale.copy_(1 / (relative_MD.std(dim=0) + 1e-4))

    def forward(self, relative_MD: Tensor, batch: PivotBatch) -> Tensor:
        """Return the logits (S,) of the batch's scored members."""
        rows = (relative_MD - self.input_mean) * self.input_scale
        for convolution in self.convolutions:
            around = MeanNeighbors.apply(rows, batch.indptr, batch.indices)  # type: ignore[no-untyped-call]
            rows = functional.relu(convolution(torch.cat([rows, around], dim=1)))
        scored = rows[torch.from_numpy(batch.scored).to(rows.device)]
        return self.last(self.activation(self.first(scored))).squeeze(1)


def build_network(dimension: int, settings: PivotSettings, seed: int) -> PivotNetwork:
    """Build a network with weights drawn from ``seed`` alone."""
    with drawn_weights(seed):
        return PivotNetwork(dimension, settings.widths, settings.hidden)


def count_products(dimension: int, widths: Sequence[int]) -> int:
    """Multiplications of a network's convolutions for one member, for projections."""
    return sum(2 * given * width for given, width in zip([dimension, *widths][:-1], widths, strict=True))


def relative_vectors(features_ND: Array, pivots_B: Array, batch: PivotBatch) -> Tensor:
    """Members' vectors less their pivots': (M, D) float32."""
    own = np.asarray(features_ND[batch.members_M], np.float32)
    return torch.from_numpy(own - np.asarray(features_ND[pivots_B], np.float32)[batch.owners_M])


@dataclass(frozen=True)
class PivotData:
    """What training reads: vectors (N, D), lists (N, K), identities (N,), -1 unknown, and how to build a batch.

    ``usable_N``: vertices that a network scores the lists of; ``batch_of`` gives the subgraphs of some pivots.
    """

    features_ND: Array
    neighbors_NK: Array
    identities_N: Array
    usable_N: Array
    batch_of: Callable[[Array], PivotBatch]


def train_pivots(
    data: PivotData,
    *,
    model: PivotSettings,
    config: TrainSettings,
    identity_balance: float,
    seed: int,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
    device: str = "cpu",
) -> tuple[PivotNetwork, list[Evaluation]]:
    """Fit a network by cross-entropy over the scored members of known identity, stopped on identities held out.

    Pivots are drawn by their identity's size to the power -``identity_balance`` (published: all alike), so that a few
    large ones do not own the loss; no scored pair touches a held-out row. Resumed training gives the bits of
    uninterrupted training. Raises ``DataError`` if there is nothing to learn from.
    """
    held_out_N = hold_out(data.identities_N, config.holdout, seed)
    usable = np.flatnonzero(data.usable_N & (data.identities_N >= 0))
    fitted, held = usable[~held_out_N[usable]], usable[held_out_N[usable]]
    if not len(fitted) or not len(held):
        raise DataError("training: no vertex to learn from is left once identities are held out; expected more labels")
    held = np.sort(stream(seed, STOPPING_ROWS).permutation(held)[:HELD_OUT_PIVOTS])
    weights = balance_rows(data.identities_N[fitted], identity_balance)
    network = build_network(data.features_ND.shape[1], model, seed)

    def draw(step: int, count: int) -> Array:
        return np.sort(fitted[draw_places(stream(seed, MINIBATCH, step), weights, count)])

    def logits_of(pivots: Array, allowed_N: Array) -> tuple[Tensor, Array]:
        """Logits of the scored members that are known and allowed, and whether each is of its pivot's identity."""
        batch = data.batch_of(pivots)
        others = batch.members_M[batch.scored]
        chosen = (data.identities_N[others] >= 0) & allowed_N[others]
        batch = batch._replace(scored=batch.scored[chosen])
        same = data.identities_N[others[chosen]] == data.identities_N[pivots[batch.scored_rows[chosen]]]
        return network(relative_vectors(data.features_ND, pivots, batch).to(device), batch), same

    def loss_of_step(step: int) -> Tensor | None:
        logits, same = logits_of(draw(step, model.pivots_per_step), ~held_out_N)
        if not len(same):
            return None
        return functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(same).to(logits))

    def evaluate() -> tuple[float, float | None]:
        everything = np.ones(len(held_out_N), np.bool_)
        parts = [logits_of(held[a : a + 32], everything) for a in range(0, len(held), 32)]
        logits, same = torch.cat([part[0].cpu() for part in parts]), np.concatenate([part[1] for part in parts])
        loss = float(functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(same).to(logits)))
        return loss, area_under_curve(logits.numpy(), same) if 0 < same.sum() < len(same) else None

    sizes = [list(model.widths), model.hidden, config, model.pivots_per_step]
    given = [*sizes, identity_balance, seed, *data.features_ND.shape]
    loop = TrainingLoop(network, config, fingerprint(given), device)
    step = loop.restore(checkpoint)
    if not step:
        with single_threaded_kernels():
            pivots = draw(0, STANDARDISED_PIVOTS)
            network.standardise(relative_vectors(data.features_ND, pivots, data.batch_of(pivots)))
    network.to(device)
    loop.run(step, loss_of_step=loss_of_step, evaluate=evaluate, checkpoint=checkpoint, progress=progress)
    return network, loop.history


@torch.no_grad()
def score_pivots(
    network: PivotNetwork, features_ND: Array, pivots_B: Array, batch: PivotBatch, *, device: str = "cpu"
) -> Array:
    """Logits of a batch's scored members: (S,) float32. Run it in ``map_tiles``, for one order of sums.

    What ``PivotNetwork.forward`` gives, but for rounding, with less work: the first layer is linear in member and
    pivot, so it is multiplied once for every vertex of the batch; the last serves scored members alone; products but
    the first are of bfloat16 where the processor multiplies those.
    """
    used, places = np.unique(np.concatenate([batch.members_M, pivots_B]), return_inverse=True)
    members, own_pivot = places[: len(batch.members_M)], places[len(batch.members_M) :][batch.owners_M]
    given = torch.from_numpy(np.asarray(features_ND[used], np.float32)).to(device) * network.input_scale
    shift = (network.input_mean * network.input_scale).unsqueeze(0)
    first, *middle = (_halves(layer) for layer in network.convolutions)
    sides = [given @ weights.T for weights in first[:2]]  # of which differences are taken: float32
    own, around = (
        side[torch.from_numpy(members).to(device)] - side[torch.from_numpy(own_pivot).to(device)] - shift @ weights.T
        for side, weights in zip(sides, first[:2], strict=True)
    )
    rows = functional.relu(own.add_(first[2]).add_(_average(around, batch.indptr, batch.indices, scale=True)))
    scored = torch.from_numpy(batch.scored).to(device)
    for number, (own_weights, around_weights, bias) in enumerate(middle):
        around = _average(rows, batch.indptr, batch.indices, scale=True)
        if number == len(middle) - 1:
            rows, around = rows[scored], around[scored]
        rows = functional.relu(_product(rows, own_weights).add_(_product(around, around_weights)).add_(bias))
    if not middle:
        rows = rows[scored]
    return network.last(network.activation(network.first(rows))).squeeze(1).cpu().numpy()


def _halves(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    assert isinstance(layer, nn.Linear)
    own, around = layer.weight.chunk(2, dim=1)
    return own, around, layer.bias


def _product(rows: Tensor, weights: Tensor) -> Tensor:
    if rows.is_cuda or not FAST_BFLOAT16:
        return rows @ weights.T
    padded = torch.zeros((-(-len(rows) // PRODUCT_ROWS) * PRODUCT_ROWS, rows.shape[1]), dtype=torch.bfloat16)
    padded[: len(rows)] = rows
    return (padded @ weights.bfloat16().T)[: len(rows)].float()
