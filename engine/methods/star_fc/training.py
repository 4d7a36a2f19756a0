"""Train the STAR-FC network on sampled subgraphs: resumable, stopped on identities it never trained on.

Legend: N vertices, D feature dimension, K neighbours, E edges.
``engine.learning.loop`` has the steps and checkpoints. Training is deterministic for one process and device, whatever
the number of threads: torch runs on one, edge inputs on all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import DataError
from engine.graph.adjacency import EdgeList
from engine.graph.sampling import EdgeSampler, subgraph_edges
from engine.learning.held_out import area_under_curve, hold_out
from engine.learning.loop import Checkpoint, Evaluation, LossOfStep, TrainingLoop
from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.star_fc.minibatches import GraphData, Minibatch, MinibatchSource, compute_logits
from engine.methods.star_fc.network import InteractionHead, StarFC, build_model
from engine.methods.star_fc.settings import StarFcSettings
from engine.random_streams import STANDARDISED_EDGES, STOPPING_EDGES, STOPPING_ROWS, stream
from engine.sections import fingerprint
from engine.tiles import single_threaded_kernels

Array = np.ndarray[Any, Any]

HELD_OUT_EDGES = 60_000


@dataclass
class TrainedModel:
    """The weights of the best evaluation, and how training went."""

    model: StarFC
    held_out_N: Array
    history: list[Evaluation] = field(default_factory=list)
    best_step: int = 0


def train(
    data: GraphData,
    *,
    sampling: SamplingSettings,
    model: StarFcSettings,
    config: TrainSettings,
    seed: int,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
    device: str = "cpu",
    threads: int = 1,
    share: Callable[[StarFC], LossOfStep] | None = None,
) -> TrainedModel:
    """Train from the checkpoint, or from scratch, until the held-out loss stops improving or ``max_steps``.

    Held-out identities' rows stay in the graph but no edge touching them is trained on. Resumed training gives the
    bits of uninterrupted training. ``share`` makes of the network what gives a step's loss in place of this process
    (``data_parallel``); a checkpoint goes on with it or without. Deviations from the paper: balanced
    edges, held-out stopping, AdamW by default.
    Raises ``DataError`` if there is nothing to learn from, ``ManifestMismatch`` for a checkpoint of other settings.
    """
    return _Training(data, sampling, model, config, seed, device, threads).run(checkpoint, progress, share)


class _Training:
    def __init__(
        self,
        data: GraphData,
        sampling: SamplingSettings,
        model: StarFcSettings,
        config: TrainSettings,
        seed: int,
        device: str,
        threads: int,
    ) -> None:
        self.data, self.sampling, self.seed, self.device = data, sampling, seed, device
        self.held_out_N = hold_out(data.identities_N, config.holdout, seed)
        self.source = MinibatchSource(data, self.held_out_N, sampling, config, seed, threads)
        self.model = build_model(data.features_ND.shape[1], model, seed).to(device)
        settings = fingerprint([sampling, model, config, seed, *data.features_ND.shape, *data.neighbors_NK.shape])
        self.loop = TrainingLoop(self.model, config, settings, device, self.model.apart)

    def run(
        self,
        checkpoint: Checkpoint | None,
        progress: Callable[[int, int], None] | None,
        share: Callable[[StarFC], LossOfStep] | None,
    ) -> TrainedModel:
        with single_threaded_kernels():
            held_out = self._held_out()
            step = self.loop.restore(checkpoint)
            if not step:
                self._standardise()
        best = self.loop.run(
            step,
            loss_of_step=share(self.model) if share else self._loss,
            evaluate=lambda: self._evaluate(held_out),
            checkpoint=checkpoint,
            progress=progress,
        )
        return TrainedModel(self.model, self.held_out_N, self.loop.history, best.step)

    def _loss(self, step: int) -> Tensor | None:
        batch, rng = self.source.draw(step)
        if not len(batch.same_E):
            return None
        logits, penalty = self._logits(batch, rng)
        return functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.same_E).to(logits)) + penalty

    def _logits(self, batch: Minibatch, generator: np.random.Generator | None = None) -> tuple[Tensor, Tensor | float]:
        return compute_logits(self.model, self.data, batch, self.device, generator)

    def _standardise(self) -> None:
        """Set the head's input mean and scale from the edges of the first subgraph."""
        if not isinstance(self.model.head, InteractionHead):
            return
        edges, sampler = self.source.subgraph(0)
        drawn = sampler.draw(stream(self.seed, STANDARDISED_EDGES), HELD_OUT_EDGES)
        inputs = self.source.describe(edges, *drawn).inputs_EF
        if not len(inputs):
            raise DataError("training: the first subgraph holds no edges; raise sampling.num_nearest or knn.k")
        self.model.head.input_mean.copy_(torch.from_numpy(inputs.mean(axis=0, dtype=np.float64)))
        self.model.head.input_scale.copy_(torch.from_numpy(1 / (inputs.std(axis=0, dtype=np.float64) + 1e-3)))

    def _held_out(self) -> Minibatch:
        """Draw held-out edges once, positives and negatives as in training: both ends known, at least one held out."""
        data = self.data
        edges = subgraph_edges(data.neighbors_NK, data.similarities_NK, self._held_out_neighbourhood())
        touching = (self.held_out_N[edges.sources] | self.held_out_N[edges.targets]).nonzero()[0]
        edges = EdgeList(*(column[touching] for column in edges))
        sampler = EdgeSampler(edges, data.identities_N, self.sampling)
        places, same = sampler.draw(stream(self.seed, STOPPING_EDGES), HELD_OUT_EDGES)
        if same.all() or not same.any():
            raise DataError(
                "training: the held-out identities have no neighbours of their own identity, or no others; "
                "check that labels and vectors belong together, or raise train.holdout"
            )
        return self.source.describe(edges, places, same)

    def _held_out_neighbourhood(self) -> Array:
        """Take held-out rows (at most as many as half a subgraph) and the known rows they list."""
        rows = np.flatnonzero(self.held_out_N)
        limit = self.sampling.max_vertices // 2
        if len(rows) > limit:
            rows = stream(self.seed, STOPPING_ROWS).permutation(rows)[:limit]
        listed = self.data.neighbors_NK[rows].ravel()
        member = np.zeros(len(self.held_out_N), bool)
        member[rows] = True
        member[listed[listed >= 0]] = True
        return np.flatnonzero(member & (self.data.identities_N >= 0)).astype(np.int32)

    def _evaluate(self, held_out: Minibatch) -> tuple[float, float]:
        same = held_out.same_E
        parts = [slice(a, a + 8_192) for a in range(0, len(same), 8_192)]
        logits = torch.cat([self._logits(Minibatch(*(c[part] for c in held_out)))[0].cpu() for part in parts])
        loss = float(functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(same).to(logits)))
        return loss, area_under_curve(logits.numpy(), same)
