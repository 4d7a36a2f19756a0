"""GCN-V (Yang et al., "Learning to Cluster Faces via Confidence and Connectivity Estimation", CVPR 2020).

What it fits: a graph convolution that estimates every vertex's confidence, the share of its neighbours that are of its
identity (section 3.2). How it scores: every vertex links to its nearest neighbour of higher confidence; a link's score
is its cosine, of the vectors (first pass) or of the convolution's embeddings (second pass). How it partitions: links of
less than a least cosine are dropped, the others joined (section 3.4).

Deviations: training stops on held-out identities, and both the least cosine and the pass are chosen on them (published:
0.65, and 0.80 in the second pass, of fixed schedules: preset ``gcn_v/ms1m``); the second pass looks for links among the
K neighbours that the vectors list, re-ranked by embeddings, where the released code builds a second KNN graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from engine.config import GcnVConfig, Settings, TrainConfig
from engine.learning import selection
from engine.learning.confidence import (
    ConfidenceData,
    build_network,
    confidence_targets,
    embed_vertices,
    link_scores,
    listed_cosines,
    nearest_confident,
    train_confidence,
)  # fmt: skip
from engine.learning.training import hold_out
from engine.methods.base import GraphShape, Method, Model, aggregate_stage, which_edges
from engine.methods.fitting import checkpoint, read_network, report_steps, write_weights
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, write_edges
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext, hold

VERSION = 2
PASSES = ("vectors", "embedded")
_HERE = "engine.methods.gcn_v"


class GcnV(Method):
    """GCN-V's stages."""

    name = "gcn_v"
    needs_model = True
    training_sections = ("gcn_v", "sampling", "train")
    partitions = ("components",)
    read_facts = ("network", "pass")

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The confidence network."""
        return {"": partial(build_network, model.dim, GcnVConfig(**model.facts["network"]), seed=0)}

    def untrained(self, settings: Settings) -> dict[str, Any]:
        """What a model's weights belong to, and the pass that it uses."""
        return {"network": settings.gcn_v.model_dump(mode="json"), "pass": PASSES[0]}

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``aggregate``, ``confidence``, ``links`` and ``score``, with the weights of ``model``."""
        assert model is not None
        where, params = {"weights": model.weights}, {"model": model.digest, "network": model.facts["network"]}
        return [
            aggregate_stage(graph),
            confidence_stage(graph, GcnVConfig(**model.facts["network"]), params, {}, where),
            _links(graph),
            score_stage(graph, {"pass": PASSES.index(model.facts["pass"])} | which_edges(settings, model)),
        ]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``aggregate``, ``fit``, ``confidence`` and ``links`` of the whole graph, and ``select``."""
        n, k = graph.num_rows, graph.k
        where = {"labels": labels["labels"], "column": labels["column"]}
        network = {"network": settings.gcn_v.model_dump(mode="json")}
        choose = {"seed": settings.seed, "labels": labels["digest"], "holdout": settings.train.holdout}
        return [
            aggregate_stage(graph),
            fitting_stage(graph, settings, labels, "fit"),
            confidence_stage(graph, settings.gcn_v, network, {"fit": "fit"}, {}),
            _links(graph),
            Stage("select", f"{_HERE}:select", VERSION, choose, {"links": "links"} | graph.ordered, 1,
                  Cost(fixed_bytes=n * 200, disk_bytes=1 << 16, seconds=n * k / 1e7), where, granule=1),
        ]  # fmt: skip


def fitting_stage(graph: GraphShape, settings: Settings, labels: Mapping[str, Any], name: str) -> Stage:
    """The stage ``fit``, by any name, that trains the confidence network."""
    n, hidden = graph.num_rows, settings.gcn_v.hidden
    params = {
        "network": settings.gcn_v.model_dump(mode="json"), "train": settings.train.model_dump(mode="json"),
        "identity_balance": settings.sampling.identity_balance, "seed": settings.seed, "labels": labels["digest"],
    }  # fmt: skip
    inputs = {"features": graph.features, "aggregate": "aggregate", "knn": "knn"} | graph.ordered
    rows = settings.gcn_v.vertices_per_step or n
    products = rows * hidden * (2 * graph.dim + hidden) * 6.0
    cost = Cost(
        fixed_bytes=n * 48 + rows * (graph.dim * 12 + hidden * 24), disk_bytes=16 << 20,
        seconds=settings.train.max_steps * (products / 5e10 + rows * graph.dim / 5e8) + n * graph.k / 1e8,
        kind="floats",
    )  # fmt: skip
    where = {"labels": labels["labels"], "column": labels["column"]}
    return Stage(name, f"{_HERE}:fit", VERSION, params, inputs, 1, cost, where, granule=1)


def confidence_stage(
    graph: GraphShape, config: GcnVConfig, params: Mapping[str, Any], weights: Mapping[str, str],
    where: Mapping[str, Any],
) -> Stage:  # fmt: skip
    """The stage ``confidence``: confidences and embeddings of all vertices."""
    n, hidden = graph.num_rows, config.hidden
    cost = Cost(
        bytes_per_row=hidden * 2 + 8, fixed_bytes=64 << 20, bytes_per_thread=1024 * (graph.dim + hidden * 2) * 8,
        disk_bytes=n * (hidden * 2 + 4), seconds=n * hidden * (2 * graph.dim + hidden) * 2 / 5e10, kind="floats",
    )  # fmt: skip
    inputs = {"features": graph.features, "aggregate": "aggregate", **weights}
    return Stage("confidence", f"{_HERE}:confidence", VERSION, dict(params), inputs, n, cost, where)


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train from the last checkpoint; write ``weights.safetensors``."""
    identities_N = vertex_identities(task)
    data = ConfidenceData(
        task.array("features", "features"), task.array("aggregate", "aggregated"),
        confidence_targets(task.array("knn", "neighbors"), task.array("knn", "similarities"), identities_N),
        identities_N,
    )  # fmt: skip
    with checkpoint(task) as kept:
        network, history = train_confidence(
            data, model=GcnVConfig(**task.params["network"]), config=TrainConfig(**task.params["train"]),
            identity_balance=task.params["identity_balance"], seed=task.params["seed"], checkpoint=kept,
            progress=report_steps(task), device=task.call.device,
        )  # fmt: skip
        write_weights(task, network.state_dict())
    return {"network": dict(task.params["network"]), "history": [entry.__dict__ for entry in history]}


def confidence(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``confidence`` (N,) float32 and ``codes`` (N, H) float16, unit embeddings."""
    aggregated_ND, config = task.array("aggregate", "aggregated"), GcnVConfig(**task.params["network"])
    build = partial(build_network, aggregated_ND.shape[1], config, seed=0)
    network = read_network(task, build, prefix=task.params.get("prefix", ""))
    rows = task.array("features", "features")[start:stop], aggregated_ND[start:stop]
    codes, found = embed_vertices(network, *rows, threads=task.threads, device=task.call.device)
    task.write_rows("codes", codes, np.float16)
    task.write_rows("confidence", found, np.float32)
    return {}


def links(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``linked`` (N, 2) int32, -1 for peaks, and ``cosines`` (N, 2) float32: of vectors, and of embeddings."""
    confidence_N = hold(("confidences", task.call.digest), lambda: np.array(task.array("confidence", "confidence")))
    linked, cosines = find_links(task, start, listed_in_passes(task, start, stop), confidence_N)
    task.write_rows("linked", linked, np.int32)
    task.write_rows("cosines", cosines, np.float32)
    return {"peaks": int((linked[:, 0] < 0).sum())}


def listed_in_passes(task: TaskContext, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (n, K) of rows ``start..stop`` with what they list, of each pass: of vectors, and of embeddings."""
    own = np.asarray(task.array("knn", "similarities")[start:stop], np.float32)
    neighbors_nK = task.array("knn", "neighbors")[start:stop]
    return own, listed_cosines(task.array("confidence", "codes"), neighbors_nK, start, threads=task.threads)


def find_links(
    task: TaskContext, start: int, listed: tuple[np.ndarray, np.ndarray], confidence_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's nearest neighbour of higher confidence, and its cosine, by pass: (n, 2) each."""
    neighbors_nK = task.array("knn", "neighbors")[start : start + len(listed[0])]
    pairs = [nearest_confident(neighbors_nK, cosines_nK, confidence_N, start) for cosines_nK in listed]
    return np.stack([targets for targets, _ in pairs], axis=1), np.stack([cosines for _, cosines in pairs], axis=1)


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows: a link's cosine, -1 for an edge that is no link."""
    linked_N, cosines_N = hold(("links", task.call.digest), lambda: link_columns(task, task.params["pass"]))
    return write_edges(task, start, stop, lambda a, b, _: link_scores(a, b, linked_N, cosines_N))


def select(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Choose the pass and its least cosine on the identities held out from training; write ``selected.json``."""
    identities_N = vertex_identities(task)
    held_out_N = hold_out(identities_N, task.params["holdout"], task.params["seed"])
    points = [selection.select_links(*link_columns(task, number), identities_N, held_out_N) for number in (0, 1)]
    best = int(np.argmax([selection.mean_f(point) for point in points]))
    facts = {"pass": PASSES[best], "held_out_f": {PASSES[n]: point["held_out_f"] for n, point in enumerate(points)}}
    task.write_json(
        "selected", {"operating_points": {"components": points[best]}, "preferred": "components", "facts": facts}
    )
    return {"preferred": "components", **points[best]}


def link_columns(task: TaskContext, number: int) -> tuple[np.ndarray, np.ndarray]:
    """What every vertex links to, -1 if to nothing, and the link's cosine: one column of the stage ``links``."""
    linked_N, cosines_N = (np.ascontiguousarray(task.array("links", name)[:, number]) for name in ("linked", "cosines"))
    return linked_N, cosines_N


def _links(graph: GraphShape) -> Stage:
    n, k = graph.num_rows, graph.k
    cost = Cost(fixed_bytes=n * 4, bytes_per_row=k * 32, disk_bytes=n * 16, seconds=n * k / 4e6)
    return Stage("links", f"{_HERE}:links", VERSION, {}, {"knn": "knn", "confidence": "confidence"}, n, cost)


def score_stage(graph: GraphShape, params: Mapping[str, Any]) -> Stage:
    """The stage ``score`` over the stage ``links``, GCN-V's or GCN-E's."""
    n, k = graph.num_rows, graph.k
    cost = Cost(fixed_bytes=n * 8, bytes_per_row=k * EDGE_BYTES, disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1e7)
    return Stage("score", f"{_HERE}:score", VERSION, dict(params), {"knn": "knn", "links": "links"}, n, cost)
