"""The STAR-FC networks: one graph convolution, and a symmetric head that scores an edge from its two ends.

Legend: n vertices of a batch, D feature dimension, H width of the convolution, W width of a vertex code, E edges,
F structural inputs. Everything per vertex is computed once (``encode``); an edge costs two gathers and small products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import DataError
from engine.graph.structural_inputs import NUM_STRUCTURAL
from engine.learning.layers import GraphConvolution, drawn_weights
from engine.methods.star_fc.settings import StarFcSettings
from engine.methods.star_fc_hierarchical.settings import HierarchySettings

NUM_EDGE_INPUTS = NUM_STRUCTURAL + 1  # the structural inputs, then the cosine of the aggregated vectors
NUM_SCALES = 3


class InteractionHead(nn.Module):
    """Score an edge from symmetric interactions of its ends and its structural inputs: one logit.

    Deviation from the paper, whose concatenation has to discover the inner product from raw coordinates. A vertex's
    code is z = P h, scaled to length sqrt(W); an edge's inputs are the cosine of the two codes and the structural
    inputs, the cosines of raw and of neighbourhood-averaged vectors among them, standardised by the mean and deviation
    held in the two buffers: symmetric by construction. Inputs per coordinate, z_i∘z_j and |z_i - z_j|, fit the train
    identities better and unseen ones worse: left out.
    """

    def __init__(self, hidden: int, code: int, head_hidden: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, code)
        self.first = nn.Linear(1 + NUM_EDGE_INPUTS, head_hidden)
        self.second = nn.Linear(head_hidden, head_hidden)
        self.last = nn.Linear(head_hidden, 1)
        self.dropout = dropout
        self.register_buffer("input_mean", torch.zeros(NUM_EDGE_INPUTS))
        self.register_buffer("input_scale", torch.ones(NUM_EDGE_INPUTS))
        self.input_mean: Tensor
        self.input_scale: Tensor

    def encode(self, hidden_nH: Tensor) -> Tensor:
        """Return the vertex codes (n, W)."""
        codes = self.project(hidden_nH)
        return functional.normalize(codes, dim=1) * codes.shape[1] ** 0.5

    def forward(
        self, first_EW: Tensor, second_EW: Tensor, inputs_EF: Tensor, generator: np.random.Generator | None = None
    ) -> Tensor:
        """Return the logits (E,); with a generator, apply dropout drawn from it."""
        return self.mix((first_EW * second_EW).mean(dim=1), inputs_EF, generator)

    def mix(self, cosines_E: Tensor, inputs_EF: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Return the logits (E,) from the cosines of the ends' codes, all that the head takes of them."""
        standard = ((inputs_EF - self.input_mean) * self.input_scale).clamp(-8, 8)
        inputs = torch.cat([cosines_E.unsqueeze(1), standard], dim=1)
        middle = self._drop(functional.relu(self.first(inputs), inplace=True), generator)
        middle = self._drop(functional.relu(self.second(middle), inplace=True), generator)
        return self.last(middle).squeeze(1)

    def _drop(self, values: Tensor, generator: np.random.Generator | None) -> Tensor:
        if generator is None or self.dropout == 0:
            return values
        kept = generator.random(tuple(values.shape), np.float32) >= self.dropout
        return values * (torch.from_numpy(kept).to(values) / (1 - self.dropout))


class ConcatHead(nn.Module):
    """Score an edge as published: MLP on [f_i ; f_j], PReLU, two classes; averaged over both orders.

    The first layer is split per vertex, A·f_i + B·f_j, which is the same product with less work; the average of the
    two orders' logits makes the score symmetric (the released head is not). A vertex's code is [A·f ; B·f].
    """

    def __init__(self, hidden: int, head_hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * hidden, head_hidden)
        self.activation = nn.PReLU(head_hidden)
        self.last = nn.Linear(head_hidden, 2)

    def encode(self, hidden_nH: Tensor) -> Tensor:
        """Return the vertex codes (n, 2 x head_hidden)."""
        left, right = self.first.weight.chunk(2, dim=1)
        return torch.cat([hidden_nH @ left.T, hidden_nH @ right.T], dim=1)

    def forward(
        self, first_EW: Tensor, second_EW: Tensor, inputs_EF: Tensor, generator: np.random.Generator | None = None
    ) -> Tensor:
        """Return the logits (E,) of "same identity"; the structural inputs and dropout are not part of this head."""
        first_left, first_right = first_EW.chunk(2, dim=1)
        second_left, second_right = second_EW.chunk(2, dim=1)
        forward = self.last(self.activation(first_left + second_right + self.first.bias))
        backward = self.last(self.activation(second_left + first_right + self.first.bias))
        both = forward + backward
        return (both[:, 1] - both[:, 0]) / 2


class StarFC(nn.Module):
    """The whole network; its state is a flat dict of tensors (``state_dict``).

    ``apart`` names the parameters that training gives an optimiser of their own.
    """

    apart: tuple[str, ...] = ()

    def __init__(self, dimension: int, config: StarFcSettings) -> None:
        super().__init__()
        self.dimension = dimension
        self.config = config
        self.convolution = GraphConvolution(dimension, config.hidden)
        self.head: InteractionHead | ConcatHead
        if config.head == "interaction":
            self.head = InteractionHead(config.hidden, config.code, config.head_hidden, config.dropout)
        else:
            self.head = ConcatHead(config.hidden, config.head_hidden)

    @property
    def code_width(self) -> int:
        """Width W of a vertex code."""
        return self.config.code if self.config.head == "interaction" else 2 * self.config.head_hidden

    def encode(self, features_nD: Tensor, *aggregated_nD: Tensor) -> Tensor:
        """Return the vertex codes (n, W) that ``edge_logits`` takes."""
        return self.head.encode(self.convolve(features_nD, *aggregated_nD))

    def encode_fitting(
        self, rows_nD: Sequence[Tensor], generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | float]:
        """Return the codes as training uses them, drawing from ``generator``, and what its loss adds to the edges'."""
        return self.encode(*rows_nD), 0.0

    def convolve(self, features_nD: Tensor, aggregated_nD: Tensor) -> Tensor:
        """Return the convolution's outputs (n, H); raises ``DataError`` for vectors of another dimension."""
        if features_nD.shape[1] != self.dimension:
            raise DataError(
                f"this model takes vectors of dimension {self.dimension}, got {features_nD.shape[1]}: "
                "cluster vectors of the same kind as it was trained on, or train another"
            )
        return self.convolution(features_nD, aggregated_nD)

    def edge_logits(
        self, first_EW: Tensor, second_EW: Tensor, inputs_EF: Tensor, generator: np.random.Generator | None = None
    ) -> Tensor:
        """Return the logits (E,) of "same identity" for edges given by the codes of their ends."""
        return self.head(first_EW, second_EW, inputs_EF, generator)


class HierarchicalStarFC(StarFC):
    """STAR-FC at three scales of neighbourhood, of which every vertex takes one (extended version).

    ``encode`` takes Âx of five neighbourhoods, ascending. The first two are mixed into one by learned shares, and so
    are the last two; the one convolution makes a token of each of the three, and a transformer block over a vertex's
    tokens chooses one. Training draws shares and choices by Gumbel-softmax, choices hard with the gradient of soft
    ones; ``encode`` takes the likeliest. Deviation: Âx is mixed, not what the convolution makes of it, from which it
    differs by the rectifier alone: three products for five.
    """

    apart = ("mixture",)

    def __init__(self, dimension: int, config: HierarchySettings) -> None:
        super().__init__(dimension, config)
        self.entropy_weight = config.entropy_weight
        self.mixture = nn.Parameter(torch.zeros(2, 2))
        self.scale = nn.Parameter(torch.zeros(NUM_SCALES, config.hidden))
        self.block = nn.TransformerEncoderLayer(config.hidden, 4, config.hidden, dropout=0.0, batch_first=True)
        self.choice = nn.Linear(config.hidden, 1)

    def encode(self, features_nD: Tensor, *aggregated_nD: Tensor) -> Tensor:
        """Return the codes (n, W) at every vertex's likeliest scale."""
        tokens_n3H = self._tokens(features_nD, aggregated_nD, self.mixture.softmax(dim=1))
        chosen_n = self.preferences(tokens_n3H).argmax(dim=1)
        return self.head.encode(tokens_n3H[torch.arange(len(chosen_n), device=chosen_n.device), chosen_n])

    def encode_fitting(
        self, rows_nD: Sequence[Tensor], generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | float]:
        """Return the codes (n, W) at drawn scales, and the penalty for uneven choices."""

        def draw(logits: Tensor) -> Tensor:
            noise = torch.from_numpy(generator.gumbel(size=tuple(logits.shape)).astype(np.float32))
            return (logits + noise.to(logits)).softmax(dim=1)

        tokens_n3H = self._tokens(rows_nD[0], rows_nD[1:], draw(self.mixture))
        preferences_n3 = self.preferences(tokens_n3H)
        soft_n3 = draw(preferences_n3)
        hard_n3 = functional.one_hot(soft_n3.argmax(dim=1), NUM_SCALES) + (soft_n3 - soft_n3.detach())
        codes = self.head.encode((tokens_n3H * hard_n3.unsqueeze(2)).sum(dim=1))
        return codes, self.entropy_weight * missing_entropy(preferences_n3.softmax(dim=1))

    def preferences(self, tokens_n3H: Tensor) -> Tensor:
        """Return the log-odds (n, 3) of a vertex's scales, given its tokens."""
        return self.choice(self.block(tokens_n3H + self.scale)).squeeze(2)

    def _tokens(self, features_nD: Tensor, aggregated_nD: Sequence[Tensor], shares: Tensor) -> Tensor:
        """Return a token for each vertex and scale (n, 3, H)."""
        first, second, middle, fourth, fifth = aggregated_nD
        (a, b), (c, d) = shares
        scales = a * first + b * second, middle, c * fourth + d * fifth
        return torch.stack([self.convolve(features_nD, scale) for scale in scales], dim=1)


def missing_entropy(probabilities_n3: Tensor) -> Tensor:
    """Return the bits by which the vertices' choices, taken together, fall short of an even one: 0 to log2(3)."""
    shares = probabilities_n3.mean(dim=0)
    return math.log2(NUM_SCALES) + (shares * shares.clamp_min(1e-30).log2()).sum()


def build_model(dimension: int, config: StarFcSettings, seed: int) -> StarFC:
    """Build the network that ``config`` is of, with weights drawn from ``seed`` alone."""
    with drawn_weights(seed):
        if isinstance(config, HierarchySettings):
            return HierarchicalStarFC(dimension, config)
        return StarFC(dimension, config)
