"""The STAR-FC network: one graph convolution, and a symmetric head that scores an edge from its two ends.

Legend: n vertices of a batch, D feature dimension, H width of the convolution, W width of a vertex code, E edges,
F structural inputs. Everything per vertex is computed once (``encode``); an edge costs two gathers and small products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.config import ModelConfig
from engine.errors import DataError
from engine.graph.features import NUM_STRUCTURAL

NUM_EDGE_INPUTS = NUM_STRUCTURAL + 1  # the structural inputs, then the cosine of the aggregated vectors


@contextmanager
def drawn_weights(seed: int) -> Iterator[None]:
    """Draw the weights of networks built in the block from ``seed`` alone; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class GraphConvolution(nn.Module):
    """Compute ReLU(W [x ; Âx]) (STAR-FC, section 3.1)."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dimension, hidden)

    def forward(self, features_nD: Tensor, aggregated_nD: Tensor) -> Tensor:
        """Return (n, H) from the unit vectors and their aggregated rows Âx."""
        return functional.relu(self.linear(torch.cat([features_nD, aggregated_nD], dim=1)))


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
    """The whole network; its state is a flat dict of tensors (``state_dict``)."""

    def __init__(self, dimension: int, config: ModelConfig) -> None:
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

    def encode(self, features_nD: Tensor, aggregated_nD: Tensor) -> Tensor:
        """Return the vertex codes (n, W) that ``edge_logits`` takes."""
        if features_nD.shape[1] != self.dimension:
            raise DataError(
                f"this model takes vectors of dimension {self.dimension}, got {features_nD.shape[1]}: "
                "cluster vectors of the same kind as it was trained on, or train another"
            )
        return self.head.encode(self.convolution(features_nD, aggregated_nD))

    def edge_logits(
        self, first_EW: Tensor, second_EW: Tensor, inputs_EF: Tensor, generator: np.random.Generator | None = None
    ) -> Tensor:
        """Return the logits (E,) of "same identity" for edges given by the codes of their ends."""
        return self.head(first_EW, second_EW, inputs_EF, generator)


def build_model(dimension: int, config: ModelConfig, seed: int) -> StarFC:
    """Build a network with weights drawn from ``seed`` alone."""
    with drawn_weights(seed):
        return StarFC(dimension, config)
