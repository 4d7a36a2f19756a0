"""STAR-FC's steps: training, the vertices' codes, and the edges' scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.graph.adjacency import EdgeList
from engine.learning.layers import EMBED_ROWS
from engine.learning.loop import LossOfStep
from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.fitting import Weighted, checkpoint, report_steps, write_weights
from engine.methods.star_fc.data_parallel import Helpers, SharedSteps, TrainingHelper
from engine.methods.star_fc.minibatches import GraphData
from engine.methods.star_fc.network import StarFC, build_model
from engine.methods.star_fc.scoring import embed_block, score_edges
from engine.methods.star_fc.settings import StarFcSettings
from engine.methods.star_fc.training import train
from engine.runs.step import F, Facts, RowStep, Step, Task, companion_task, where
from engine.stages import Cost
from engine.steps.aggregate import Aggregate
from engine.steps.edges import EDGE_BYTES, STORED_BYTES, EdgeFacts, Scores
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order
from engine.steps.labels import Labelled
from engine.steps.metric import LearnedMetric, learned
from engine.storage.context import TaskCall

VERSION = 2  # of every step here
HELPER = f"{__name__}:Helper"


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding(Step[F]):
    """A step that reads what vertices are encoded from: their vectors, Âx, and Âx of smaller neighbourhoods.

    ``more_bytes`` and ``more_s``: what encoding a vertex takes beyond one convolution's.
    """

    features: Vectors[Any]
    smaller: tuple[Aggregate, ...]
    aggregate: Aggregate
    network: StarFcSettings
    more_bytes: int = where(0)
    more_s: float = where(0.0)

    def smaller_arrays(self, task: Task) -> list[np.ndarray]:
        """Âx of the smaller neighbourhoods, ascending."""
        return [task.array(each, "aggregated") for each in self.smaller]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit(Encoding[Facts], Labelled[Facts]):
    """The network, trained from the last checkpoint: ``weights.safetensors``. Several workers train data-parallel."""

    kind, version, title = "star_fc.fit", VERSION, "fit"
    all_workers = True
    knn: Knn
    order: Order | None
    metric: LearnedMetric | None
    sampling: SamplingSettings
    train: TrainSettings
    seed: int

    def cost(self) -> Cost:
        """Subgraphs and minibatches."""
        n, batch, network = self.knn.num_rows, self.train.edges_per_step, self.network
        sampled, steps = min(n, self.sampling.max_vertices), self.train.max_steps
        return Cost(
            fixed_bytes=n * 40 + sampled * self.knn.k * 140 + batch * (network.hidden * 100 + 4 * self.more_bytes),
            disk_bytes=16 << 20,
            seconds=steps * (batch * (1e-6 + 6 * self.more_s) + sampled / self.train.steps_per_subgraph / 2e4),
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Train."""
        data = self.graph_data(task)
        with checkpoint(task) as kept, self._sharing(task, data) as share:
            trained = train(data, **self.training(task), checkpoint=kept, progress=report_steps(task), share=share)
            tensors, facts = learned(task, self.metric)
            metric = {name: torch.from_numpy(array) for name, array in tensors.items()}
            write_weights(task, trained.model.state_dict() | metric)
        history = [entry.__dict__ for entry in trained.history]
        network = self.network.model_dump(mode="json")
        return {"network": network, "best_step": trained.best_step, "history": history, **facts}

    def graph_data(self, task: Task) -> GraphData:
        """What training reads."""
        return GraphData(
            features_ND=_half(task.array(self.features, "features")),
            aggregated_ND=task.array(self.aggregate, "aggregated"),
            neighbors_NK=task.array(self.knn, "neighbors"),
            similarities_NK=task.array(self.knn, "similarities"),
            identities_N=self.identities(self.order, task),
            smaller_ND=self.smaller_arrays(task),
        )

    def training(self, task: Task) -> dict[str, Any]:
        """How to train."""
        return {
            "sampling": self.sampling,
            "model": self.network,
            "config": self.train,
            "seed": self.seed,
            "device": task.call.device,
            "threads": task.threads,
        }

    @contextmanager
    def _sharing(self, task: Task, data: GraphData) -> Iterator[Callable[[StarFC], LossOfStep] | None]:
        """What shares the steps out among the task's workers; ``None`` if it has one."""
        workers = task.call.workers
        if workers == 1:
            yield None
            return
        with (
            task.companions(HELPER, [(task.sent,)] * (workers - 1), on_device=True) as others,
            task.companions(HELPER, [(task.sent,)] * workers) as samplers,
        ):
            given = self.training(task)
            shared = given["config"], given["seed"], given["device"], Helpers(others, samplers)
            yield lambda model: SharedSteps(model, data, *shared).loss


class Helper(TrainingHelper):
    """A companion of ``fit``, which reads what the task reads."""

    def __init__(self, call: TaskCall) -> None:
        step, task = companion_task(call, Fit)
        super().__init__(step.graph_data(task), **step.training(task), num_workers=call.workers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embed(Encoding[None], Weighted[None], RowStep[None]):
    """The vertices' ``codes`` (N, W) float16."""

    kind, version, title = "star_fc.embed", VERSION, "embed"

    @property
    def width(self) -> int:
        """W."""
        return self.network.code if self.network.head == "interaction" else 2 * self.network.head_hidden

    def cost(self) -> Cost:
        """A block of codes."""
        n, width = self.num_rows, self.width
        return Cost(
            bytes_per_row=width * 4,
            fixed_bytes=32 << 20,
            bytes_per_thread=(8 << 20) + EMBED_ROWS * self.more_bytes,
            disk_bytes=n * width * 2,
            seconds=n * (4e-6 + self.more_s),
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Encode these vertices."""
        aggregated_ND = task.array(self.aggregate, "aggregated")
        model = _read_model(task, self, self.network, aggregated_ND.shape[1])
        arrays = task.array(self.features, "features"), *self.smaller_arrays(task), aggregated_ND
        rows = (array[start:stop] for array in arrays)
        codes = embed_block(model, *rows, threads=task.threads, device=task.call.device)
        task.write_rows("codes", codes, np.float16)


@dataclass(frozen=True, kw_only=True, eq=False)
class StarFcScores(Scores, Weighted[EdgeFacts]):
    """Every edge with the model's probability that both ends are one identity."""

    kind, version = "star_fc.score", VERSION
    embed: Embed
    aggregate: Aggregate
    network: StarFcSettings

    def cost(self) -> Cost:
        """A block of edges, and a tile of the head's layers."""
        n, k = self.num_rows, self.knn.k
        return Cost(
            bytes_per_row=k * EDGE_BYTES,
            bytes_per_thread=4096 * (3 * self.embed.width + 2 * self.network.head_hidden + 64) * 4,
            disk_bytes=n * k * STORED_BYTES,
            seconds=n * k / 1.2e6,
        )

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        arrays = (
            task.array(self.embed, "codes"),
            task.array(self.aggregate, "aggregated"),
            task.array(self.knn, "neighbors"),
            task.array(self.knn, "similarities"),
        )
        model = _read_model(task, self, self.network, arrays[1].shape[1])

        def scorer(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            edges = EdgeList(sources, targets, similarities)
            return score_edges(model, *arrays, edges, threads=task.threads, device=task.call.device)

        return self.write(task, start, stop, scorer)


def _read_model(task: Task, step: Weighted[Any], network: StarFcSettings, dim: int) -> StarFC:
    return step.read_network(task, lambda: build_model(dim, network, seed=0))


def _half(features_ND: np.ndarray) -> np.ndarray:
    return features_ND if features_ND.dtype == np.float16 else features_ND.astype(np.float16)
