"""STAR-FC (Shen et al., CVPR 2021): a graph convolution trained on structure-preserved subgraphs scores every edge.

What it fits: one graph convolution and an edge head, on subgraphs sampled from the labelled source (section 3.2).
How it scores: every undirected edge of the full graph once. How it partitions: pruning by score and node intimacy, then
union-find, as published; or size-capped propagation on the same scores, whichever does better on held-out identities.

Deviations, each with its reason where it is done: an edge head over the codes' cosine and structural inputs by
default (``star_fc/original`` is the published head); balanced edge sampling; stopping and thresholds on held-out train
identities; closed-neighbourhood intimacy; propagation beside components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.config import HierarchyConfig, MethodName, ModelConfig, SamplingConfig, Settings, TrainConfig
from engine.graph.adjacency import EdgeList
from engine.learning.data_parallel import Helpers, SharedSteps, TrainingHelper
from engine.learning.layers import StarFC, build_model
from engine.learning.loop import LossOfStep
from engine.learning.minibatches import GraphData
from engine.learning.scoring import EMBED_ROWS, embed_block, score_edges
from engine.learning.training import train
from engine.methods.base import GraphShape, Method, Model, aggregate_stage, select_stage, which_edges
from engine.methods.fitting import checkpoint, read_network, report_steps, write_weights
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, write_edges
from engine.stages.metric import learned, vertex_identities
from engine.storage.context import CompanionTask, TaskCall, TaskContext

VERSION = 2
_HERE = "engine.methods.star_fc"


class StarFc(Method):
    """STAR-FC's stages."""

    name: MethodName = "star_fc"
    learned = True
    needs_model = True
    metric_spaces = 1
    read_facts = ("network",)
    training_sections: tuple[str, ...] = ("sampling", "model", "train", "metric")

    def network(self, settings: Settings) -> ModelConfig:
        """The network to train."""
        return settings.model

    def aggregates(self, graph: GraphShape, network: ModelConfig) -> list[Stage]:
        """The stages of Âx that ``network`` takes, the graph's own last."""
        return [aggregate_stage(graph)]

    def encoding_cost(self, graph: GraphShape, network: ModelConfig) -> tuple[int, float]:
        """Bytes and seconds that encoding a vertex takes beyond one convolution's."""
        return 0, 0.0

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The network that encodes vertices and scores edges."""
        config = _network_config(model.facts["network"])
        return {"": lambda: build_model(model.dim, config, seed=0)}

    def untrained(self, settings: Settings) -> dict[str, Any]:
        """What a model's weights belong to."""
        return {"network": self.network(settings).model_dump(mode="json")}

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``aggregate`` (Âx), ``embed`` (vertex codes) and ``score``, with the weights of ``model``."""
        assert model is not None
        network = _network_config(model.facts["network"])
        where = {"weights": model.weights}
        params = {"network": network.model_dump(mode="json"), "model": model.digest}
        aggregates = self.aggregates(graph, network)
        edges = which_edges(settings, model)
        return [*_distinct(aggregates), *self._scoring(graph, network, aggregates, params, {}, where, edges)]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``aggregate``, ``fit``, then scoring of the whole graph and ``select``, which chooses the thresholds."""
        n, network = graph.num_rows, self.network(settings)
        aggregates = self.aggregates(graph, network)
        where = {"labels": labels["labels"], "column": labels["column"]}
        params = {
            "sampling": settings.sampling.model_dump(mode="json"), "network": network.model_dump(mode="json"),
            "train": settings.train.model_dump(mode="json"), "seed": settings.seed, "labels": labels["digest"],
        }  # fmt: skip
        inputs = {"features": graph.features, "knn": "knn", **_encoded(aggregates)} | graph.ordered
        inputs |= {"metric": graph.metric} if graph.metric else {}
        sampled, steps = min(n, settings.sampling.max_vertices), settings.train.max_steps
        batch, (more_bytes, more_s) = settings.train.edges_per_step, self.encoding_cost(graph, network)
        cost = Cost(
            fixed_bytes=n * 40 + sampled * graph.k * 140 + batch * (network.hidden * 100 + 4 * more_bytes),
            disk_bytes=16 << 20,
            seconds=steps * (batch * (1e-6 + 6 * more_s) + sampled / settings.train.steps_per_subgraph / 2e4),
        )  # fmt: skip
        fit = Stage("fit", f"{_HERE}:fit", VERSION, params, inputs, 1, cost, where, granule=1, all_workers=True)
        given, edges = {"network": params["network"]}, which_edges(settings)
        scoring = self._scoring(graph, network, aggregates, given, {"fit": "fit"}, {}, edges)
        select = select_stage(graph, settings, labels, settings.train.holdout)
        return [*_distinct(aggregates), fit, *scoring, select]

    def _scoring(
        self, graph: GraphShape, network: ModelConfig, aggregates: list[Stage], params: Mapping[str, Any],
        weights: Mapping[str, str], where: Mapping[str, Any], edges: Mapping[str, Any],
    ) -> list[Stage]:  # fmt: skip
        n, k = graph.num_rows, graph.k
        width = network.code if network.head == "interaction" else 2 * network.head_hidden
        inputs = {"features": graph.features, **_encoded(aggregates), **weights}
        more_bytes, more_s = self.encoding_cost(graph, network)
        cost = Cost(
            bytes_per_row=width * 4, fixed_bytes=32 << 20, bytes_per_thread=(8 << 20) + EMBED_ROWS * more_bytes,
            disk_bytes=n * width * 2, seconds=n * (4e-6 + more_s),
        )  # fmt: skip
        embed_stage = Stage("embed", f"{_HERE}:embed", VERSION, params, inputs, n, cost, where)
        inputs = {"embed": "embed", "aggregate": "aggregate", "knn": "knn", **weights}
        cost = Cost(
            bytes_per_row=k * EDGE_BYTES, bytes_per_thread=4096 * (3 * width + 2 * network.head_hidden + 64) * 4,
            disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1.2e6,
        )  # fmt: skip
        params = {**params, **edges}
        return [embed_stage, Stage("score", f"{_HERE}:score", VERSION, params, inputs, n, cost, where)]


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train from the last checkpoint; write ``weights.safetensors``. Several workers train data-parallel."""
    data = _graph_data(task)
    with checkpoint(task) as kept, _sharing(task, data) as share:
        trained = train(data, **_training(task), checkpoint=kept, progress=report_steps(task), share=share)
        tensors, facts = learned(task)
        metric = {name: torch.from_numpy(array) for name, array in tensors.items()}
        write_weights(task, trained.model.state_dict() | metric)
    history = [entry.__dict__ for entry in trained.history]
    return {"network": dict(task.params["network"]), "best_step": trained.best_step, "history": history, **facts}


class Helper(TrainingHelper):
    """A companion of ``fit``, which reads what the task reads."""

    def __init__(self, call: TaskCall) -> None:
        task = CompanionTask(call)
        super().__init__(_graph_data(task), **_training(task), num_workers=call.workers)


@contextmanager
def _sharing(task: TaskContext, data: GraphData) -> Iterator[Callable[[StarFC], LossOfStep] | None]:
    """What shares the steps out among the task's workers; ``None`` if it has one."""
    helper, workers = f"{_HERE}:Helper", task.call.workers
    if workers == 1:
        yield None
        return
    with (
        task.companions(helper, [(task.sent,)] * (workers - 1), on_device=True) as others,
        task.companions(helper, [(task.sent,)] * workers) as samplers,
    ):
        given = _training(task)
        shared = given["config"], given["seed"], given["device"], Helpers(others, samplers)
        yield lambda model: SharedSteps(model, data, *shared).loss


def _graph_data(task: TaskContext) -> GraphData:
    return GraphData(
        features_ND=_half(task.array("features", "features")),
        aggregated_ND=task.array("aggregate", "aggregated"),
        neighbors_NK=task.array("knn", "neighbors"),
        similarities_NK=task.array("knn", "similarities"),
        identities_N=vertex_identities(task),
        smaller_ND=_smaller(task),
    )


def _training(task: TaskContext) -> dict[str, Any]:
    return {
        "sampling": SamplingConfig(**task.params["sampling"]), "model": _network_config(task.params["network"]),
        "config": TrainConfig(**task.params["train"]), "seed": task.params["seed"], "device": task.call.device,
        "threads": task.threads,
    }  # fmt: skip


def embed(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the vertex ``codes`` (N, W) float16."""
    model = _network(task)
    arrays = task.array("features", "features"), *_smaller(task), task.array("aggregate", "aggregated")
    rows = (array[start:stop] for array in arrays)
    codes = embed_block(model, *rows, threads=task.threads, device=task.call.device)
    task.write_rows("codes", codes, np.float16)
    return {}


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with the model's probability that both ends are one identity."""
    model = _network(task)
    arrays = (
        task.array("embed", "codes"), task.array("aggregate", "aggregated"),
        task.array("knn", "neighbors"), task.array("knn", "similarities"),
    )  # fmt: skip

    def scorer(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        edges = EdgeList(sources, targets, similarities)
        return score_edges(model, *arrays, edges, threads=task.threads, device=task.call.device)

    return write_edges(task, start, stop, scorer)


def _network_config(tree: Mapping[str, Any]) -> ModelConfig:
    """The settings of a network from the plain data that stages and models hold."""
    return HierarchyConfig(**tree) if "scales" in tree else ModelConfig(**tree)


def _encoded(aggregates: list[Stage]) -> dict[str, str]:
    """The inputs that vertices are encoded from, besides their vectors."""
    return {f"smaller_{place}": stage.name for place, stage in enumerate(aggregates[:-1])} | {"aggregate": "aggregate"}


def _distinct(aggregates: list[Stage]) -> list[Stage]:
    return list({stage.name: stage for stage in aggregates}.values())


def _smaller(task: TaskContext) -> list[np.ndarray]:
    return [task.array(name, "aggregated") for name in sorted(task.call.inputs) if name.startswith("smaller_")]


def _network(task: TaskContext) -> StarFC:
    dim, config = task.array("aggregate", "aggregated").shape[1], _network_config(task.params["network"])
    return read_network(task, lambda: build_model(dim, config, seed=0))


def _half(features_ND: np.ndarray) -> np.ndarray:
    return features_ND if features_ND.dtype == np.float16 else features_ND.astype(np.float16)
