"""Data-parallel training of the STAR-FC network: each step's edges are shared out, the gradients added up again.

A step's minibatch is the one that a single worker draws. Samplers draw all of a subgraph ahead, subgraph by subgraph in
turn; of each step worker w of W takes every W-th edge and gives the gradient of its share, the task itself as worker 0;
the task adds them in the order of the workers for its optimisers. So the loss curve is a single worker's, but for
rounding and for dropout and scales, of which each worker draws its own, and the same bits again for the same number of
workers.

Weights and gradients travel as the calls of companions do, not through torch.distributed (gloo, NCCL) under Ray Train.
The default network's are 377 kB: calling a worker with them takes 8.5 ms (Ray on one host of two busy cores), where one
worker alone needs 92 ms for a step. In return the order of adding is fixed; workers keep nothing from step to step, so
a checkpoint goes on with any number of them; and one that dies fails the task, which is redone from the checkpoint,
where a collective would wait for its timeout. On GPUs gradients pass through host memory, at a cost not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.learning.held_out import hold_out
from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.star_fc.minibatches import GraphData, Minibatch, MinibatchSource, compute_logits
from engine.methods.star_fc.network import StarFC, build_model
from engine.methods.star_fc.settings import StarFcSettings
from engine.random_streams import GRADIENT_SHARE, stream
from engine.storage.companions import Companions
from engine.tiles import single_threaded_kernels

Array = np.ndarray[Any, Any]
Gradient = tuple[int, float, Array]  # edges of a share, their summed loss, and its gradient (parameters, flat)


@dataclass(frozen=True)
class Helpers:
    """The ``TrainingHelper`` companions of a training: its workers from 1 on, and as many samplers as workers."""

    workers: Companions
    samplers: Companions


class TrainingHelper:
    """Draws minibatches or computes gradients, and builds only what it uses: each takes less than one training."""

    def __init__(
        self,
        data: GraphData,
        *,
        sampling: SamplingSettings,
        model: StarFcSettings,
        config: TrainSettings,
        seed: int,
        device: str,
        threads: int,
        num_workers: int,
    ) -> None:
        self.data, self.sampling, self.model, self.config = data, sampling, model, config
        self.seed, self.device, self.threads, self.num_workers = seed, device, threads, num_workers

    @cached_property
    def source(self) -> MinibatchSource:
        held_out_N = hold_out(self.data.identities_N, self.config.holdout, self.seed)
        return MinibatchSource(self.data, held_out_N, self.sampling, self.config, self.seed, self.threads)

    @cached_property
    def network(self) -> StarFC:
        return build_model(self.data.features_ND.shape[1], self.model, self.seed).to(self.device)

    def draw(self, index: int) -> list[list[Minibatch]]:
        """Give each worker its shares of the minibatches of subgraph ``index``, step by step."""
        first = index * self.config.steps_per_subgraph
        steps = range(first, min(first + self.config.steps_per_subgraph, self.config.max_steps))
        batches = [self.source.draw(step)[0] for step in steps]
        return [[batch.share(number, self.num_workers) for batch in batches] for number in range(self.num_workers)]

    def gradient(self, state: Array, batches: list[Minibatch], step: int, number: int) -> Gradient:
        """Compute worker ``number``'s part of a step, at the parameters and buffers ``state``."""
        tensors = list(self.network.state_dict().values())
        parts = np.split(state, np.cumsum([tensor.numel() for tensor in tensors])[:-1])
        for tensor, values in zip(tensors, parts, strict=True):
            tensor.copy_(torch.tensor(values).view(tensor.shape))
        batch = batches[step % self.config.steps_per_subgraph]
        with single_threaded_kernels():
            return _share_gradient(self.network, self.data, batch, self.seed, step, number, self.device)


class SharedSteps:
    """The loss of each step, as ``TrainingLoop`` asks for it, with the gradient that the workers make of it."""

    def __init__(
        self, model: StarFC, data: GraphData, config: TrainSettings, seed: int, device: str, helpers: Helpers
    ) -> None:
        self.model, self.data, self.config, self.seed, self.device = model, data, config, seed, device
        self.helpers = helpers
        self._drawn: dict[int, list[Any]] = {}  # by subgraph, begun ahead: a promise of each worker's shares
        self._own: tuple[int, list[Minibatch]] = (-1, [])

    def loss(self, step: int) -> Tensor | None:
        """Give the mean loss of a step's edges; ``None`` if there are none."""
        index, place = divmod(step, self.config.steps_per_subgraph)
        shares = self._shares(index)
        state = torch.cat([tensor.flatten() for tensor in self.model.state_dict().values()]).cpu().numpy()
        workers = self.helpers.workers
        others = [
            workers.begin(number, "gradient", state, share, step, number + 1) for number, share in enumerate(shares)
        ]
        own = _share_gradient(self.model, self.data, self._own[1][place], self.seed, step, 0, self.device)
        counts, losses, gradients = zip(own, *workers.wait(others), strict=True)
        total = sum(counts)
        if not total:
            return None
        gradient = torch.from_numpy(sum(gradients[1:], gradients[0]) / np.float32(total)).to(self.device)
        loss = torch.tensor(sum(losses) / total, device=self.device)
        return _GivenGradient.apply(loss, gradient, *self.model.parameters())  # type: ignore[no-untyped-call]

    def _shares(self, index: int) -> list[Any]:
        """The other workers' shares of a subgraph; each sampler has begun one of those to come."""
        samplers, count = self.helpers.samplers, len(self.helpers.samplers)
        last = (self.config.max_steps - 1) // self.config.steps_per_subgraph
        for ahead in range(index, min(index + count, last) + 1):
            if ahead not in self._drawn:
                self._drawn[ahead] = samplers.begin(ahead % count, "draw", ahead, parts=len(self.helpers.workers) + 1)
        if self._own[0] != index:
            self._drawn.pop(index - 1, None)
            self._own = index, samplers.wait(self._drawn[index][:1])[0]
        return self._drawn[index][1:]


class _GivenGradient(torch.autograd.Function):
    """A loss whose gradient was computed elsewhere."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradient: Tensor, *parameters: Tensor) -> Tensor:
        parts = torch.split(gradient, [parameter.numel() for parameter in parameters])
        ctx.gradients = [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(outer[0] * gradient for gradient in ctx.gradients)


def _share_gradient(
    model: StarFC, data: GraphData, batch: Minibatch, seed: int, step: int, number: int, device: str
) -> Gradient:
    generator = stream(seed, GRADIENT_SHARE, step, number)
    parameters = list(model.parameters())
    if not len(batch.same_E):
        return 0, 0.0, np.zeros(sum(parameter.numel() for parameter in parameters), np.float32)
    logits, penalty = compute_logits(model, data, batch, device, generator)
    same = torch.from_numpy(batch.same_E.copy()).to(logits)
    loss = functional.binary_cross_entropy_with_logits(logits, same, reduction="sum") + len(same) * penalty
    gradients = torch.autograd.grad(loss, parameters)
    flat = torch.cat([gradient.flatten() for gradient in gradients]).cpu().numpy()
    return len(batch.same_E), float(loss.detach()), flat
