"""STAR-FC (Shen et al., CVPR 2021): a graph convolution trained on structure-preserved subgraphs scores every edge.

What it fits: one graph convolution and an edge head, on subgraphs sampled from the labelled source (section 3.2).
How it scores: every undirected edge of the full graph once. How it partitions: pruning by score and node intimacy, then
union-find, as published; or size-capped propagation on the same scores, whichever does better on held-out identities.

Deviations, each with its reason where it is done: an edge head over the codes' cosine and structural inputs by
default (``star_fc/original`` is the published head); balanced edge sampling; stopping and thresholds on held-out train
identities; closed-neighbourhood intimacy; propagation beside components.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from engine.config import ModelConfig, SamplingConfig, Settings, TrainConfig
from engine.graph.adjacency import EdgeList, aggregate, symmetric_rows
from engine.learning import selection
from engine.learning.layers import StarFC, build_model
from engine.learning.scoring import embed_block, score_edges
from engine.learning.training import GraphData, hold_out, train
from engine.methods.base import GraphShape, Model, which_edges
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, iterate_edges, write_edges
from engine.stages.metric import learned, read_identities
from engine.storage.context import TaskContext, hold, read_npy
from engine.storage.manifest import write_atomic

VERSION = 2
FLOOR_SHARE = 0.0005  # leaves out a seventh of part1's edges, a quarter of real sets'; at 0.001 faces lose 0.1 of F
CHECKPOINT_FILE = "checkpoint.safetensors"
_HERE = "engine.methods.star_fc"


class StarFc:
    """STAR-FC's stages."""

    name = "star_fc"
    learned = True
    needs_model = True
    metric_spaces = 1

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``aggregate`` (Âx), ``embed`` (vertex codes) and ``score``, with the weights of ``model``."""
        assert model is not None
        network = ModelConfig(**model.facts["network"])
        where = {"weights": model.weights}
        params = {"network": network.model_dump(mode="json"), "model": model.digest}
        return [_aggregate(graph), *_scoring(graph, network, params, {}, where, which_edges(settings, model))]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``aggregate``, ``fit``, then scoring of the whole graph and ``select``, which chooses the thresholds."""
        n, network = graph.num_rows, settings.model
        where = {"labels": labels["labels"], "column": labels["column"]}
        params = {
            "sampling": settings.sampling.model_dump(mode="json"), "network": network.model_dump(mode="json"),
            "train": settings.train.model_dump(mode="json"), "seed": settings.seed, "labels": labels["digest"],
        }  # fmt: skip
        inputs = {"features": graph.features, "aggregate": "aggregate", "knn": "knn"} | graph.ordered
        inputs |= {"metric": graph.metric} if graph.metric else {}
        sampled, steps = min(n, settings.sampling.max_vertices), settings.train.max_steps
        cost = Cost(
            fixed_bytes=n * 40 + sampled * graph.k * 140 + settings.train.edges_per_step * network.hidden * 100,
            disk_bytes=16 << 20,
            seconds=steps * (settings.train.edges_per_step / 1e6 + sampled / settings.train.steps_per_subgraph / 2e4),
        )  # fmt: skip
        fit = Stage("fit", f"{_HERE}:fit", VERSION, params, inputs, 1, cost, where, granule=1)
        scoring = _scoring(graph, network, {"network": params["network"]}, {"fit": "fit"}, {}, which_edges(settings))
        select = {name: params[name] for name in ("seed", "labels")} | {
            "holdout": settings.train.holdout, "step": settings.partition.step,
        }  # fmt: skip
        inputs = {"score": "score"} | graph.ordered
        cost = Cost(fixed_bytes=n * 200 + n * graph.k * 40, disk_bytes=1 << 16, seconds=n * graph.k / 2.8e5)
        return [
            _aggregate(graph), fit, *scoring,
            Stage("select", f"{_HERE}:select", selection.VERSION, select, inputs, 1, cost, where, granule=1),
        ]  # fmt: skip


def aggregate_neighborhoods(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write rows of Âx as ``aggregated`` (N, D) float16."""
    neighbors_NK, similarities_NK = task.array("knn", "neighbors"), task.array("knn", "similarities")
    rows = symmetric_rows(neighbors_NK, similarities_NK, start, stop, threads=task.threads)
    aggregated = aggregate(*rows, task.array("features", "features"), threads=task.threads)
    task.write_rows("aggregated", aggregated, np.float16)
    return {}


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train from the last checkpoint; write ``weights.safetensors``."""
    settings = TrainConfig(**task.params["train"])
    data = GraphData(
        features_ND=_half(task.array("features", "features")),
        aggregated_ND=task.array("aggregate", "aggregated"),
        neighbors_NK=task.array("knn", "neighbors"),
        similarities_NK=task.array("knn", "similarities"),
        identities_N=vertex_identities(task),
    )
    checkpoint = _CheckpointFile(task.folder / CHECKPOINT_FILE)
    trained = train(
        data,
        sampling=SamplingConfig(**task.params["sampling"]),
        model=ModelConfig(**task.params["network"]),
        config=settings,
        seed=task.params["seed"],
        checkpoint=checkpoint,
        progress=lambda step, steps: task.report(step / steps, f"step {step:,} of {steps:,}"),
        device=task.call.device,
        threads=task.threads,
    )
    weights = {name: tensor.cpu().contiguous() for name, tensor in trained.model.state_dict().items()}
    tensors, facts = learned(task)
    weights |= {name: torch.from_numpy(array) for name, array in tensors.items()}
    task.write_file("weights.safetensors", lambda stream: stream.write(save(weights)))
    checkpoint.path.unlink(missing_ok=True)
    history = [entry.__dict__ for entry in trained.history]
    return {"network": dict(task.params["network"]), "best_step": trained.best_step, "history": history, **facts}


def embed(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the vertex ``codes`` (N, W) float16."""
    model = _network(task)
    rows = task.array("features", "features")[start:stop], task.array("aggregate", "aggregated")[start:stop]
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


def select(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Choose the partitions' thresholds on the identities held out from training; write ``selected.json``."""
    identities_N = vertex_identities(task)
    columns = [np.concatenate(column) for column in zip(*_scored(task), strict=True)]
    selected = selection.select_operating_points(
        *columns,
        identities_N=identities_N,
        held_out_N=hold_out(identities_N, task.params["holdout"], task.params["seed"]),
        step=task.params["step"],
        seed=task.params["seed"],
        threads=task.threads,
    )
    preferred = selected.pop("preferred")
    floor = similarity_floor(task.input("score"), min(point["min_score"] for point in selected.values()))
    facts = {"min_similarity": floor}
    task.write_json("selected", {"operating_points": selected, "preferred": preferred, "facts": facts})
    return {"preferred": preferred, **selected[preferred]}


def similarity_floor(folder: Path, min_score: float) -> float:
    """Find the similarity that all but ``FLOOR_SHARE`` of the edges of score >= ``min_score`` reach.

    Below it edges are many and next to none survives, so a run with this model need not score them.
    """
    kept = [np.zeros(0, np.float32)]
    for similarities, scores in iterate_edges(folder, ("similarity", "score")):
        kept.append(similarities[scores >= np.float32(min_score)])
    values = np.concatenate(kept)
    place = int(FLOOR_SHARE * len(values))
    return float(np.partition(values, place)[place]) if len(values) else 0.0


def vertex_identities(task: TaskContext) -> np.ndarray:
    """The identities of ``--labels`` in vertex order; raises ``DataError`` if none is known."""
    identities_N = read_identities(task)
    return identities_N[read_npy(task.input("order"), "row_of_vertex")] if "order" in task.call.inputs else identities_N


def _aggregate(graph: GraphShape) -> Stage:
    n, k, dim = graph.num_rows, graph.k, graph.dim
    cost = Cost(
        bytes_per_row=dim * 4 + k * 44, disk_bytes=n * dim * 2, seconds=n * k * dim / 1.5e9,
        seconds_per_task=n * k / 1e9,  # every task scans all rows for those that list its own
    )  # fmt: skip
    inputs = {"features": graph.features, "knn": "knn"}
    return Stage("aggregate", f"{_HERE}:aggregate_neighborhoods", VERSION, {}, inputs, n, cost)


def _scoring(
    graph: GraphShape, network: ModelConfig, params: Mapping[str, Any],
    weights: Mapping[str, str], where: Mapping[str, Any], edges: Mapping[str, Any],
) -> list[Stage]:  # fmt: skip
    n, k = graph.num_rows, graph.k
    width = network.code if network.head == "interaction" else 2 * network.head_hidden
    inputs = {"features": graph.features, "aggregate": "aggregate", **weights}
    cost = Cost(
        bytes_per_row=width * 4, fixed_bytes=32 << 20, bytes_per_thread=8 << 20, disk_bytes=n * width * 2,
        seconds=n / 2.5e5,
    )  # fmt: skip
    embed_stage = Stage("embed", f"{_HERE}:embed", VERSION, params, inputs, n, cost, where)
    inputs = {"embed": "embed", "aggregate": "aggregate", "knn": "knn", **weights}
    cost = Cost(
        bytes_per_row=k * EDGE_BYTES, bytes_per_thread=4096 * (3 * width + 2 * network.head_hidden + 64) * 4,
        disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1.2e6,
    )  # fmt: skip
    params = {**params, **edges}
    return [embed_stage, Stage("score", f"{_HERE}:score", VERSION, params, inputs, n, cost, where)]


def _network(task: TaskContext) -> StarFC:
    weights = task.where.get("weights") or str(task.input("fit") / "weights.safetensors")

    def load() -> StarFC:
        dim = task.array("aggregate", "aggregated").shape[1]
        network = build_model(dim, ModelConfig(**task.params["network"]), seed=0)
        tensors = load_file(weights)
        network.load_state_dict({name: tensors[name] for name in tensors if not name.startswith("metric.")})
        return network.eval()

    return hold(("network", weights, task.call.digest), load)


def _scored(task: TaskContext) -> list[tuple[np.ndarray, ...]]:
    return list(iterate_edges(task.input("score"), ("source", "target", "score")))


def _half(features_ND: np.ndarray) -> np.ndarray:
    return features_ND if features_ND.dtype == np.float16 else features_ND.astype(np.float16)


class _CheckpointFile:
    """Training's one checkpoint, in the stage's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def write(self, data: bytes) -> None:
        write_atomic(self.path, lambda stream: stream.write(data))
