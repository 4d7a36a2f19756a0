"""L-GCN (Wang et al., "Linkage Based Face Clustering via Graph Convolution Network", CVPR 2019).

What it fits: graph convolutions over the subgraph around a pivot that say which of its neighbours are of its identity
(section 3.3). How it scores: every vertex is a pivot once, and an edge's score is the mean of both directions'
probabilities. How it partitions: size-capped propagation, as published, or whichever partition does better on
held-out identities.

Deviations: vectors are standardised by statistics of members measured once, not by batch statistics that padding
enters; convolutions are half as wide (``l_gcn/original`` has the published widths, which take some three times as long
on CPUs); training stops on held-out identities and draws pivots evenly over identities of any size; the same numbers of
neighbours (``second_hop``, ``active``) serve training and use; neighbours below the similarity that a model stores are
neither scored nor members. Unlabelled vectors are scored like any others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numba
import numpy as np
from torch import nn

from engine.config import LGcnConfig, Settings, TrainConfig
from engine.graph.adjacency import rank_listed
from engine.graph.intrinsics import widen
from engine.graph.pivots import PivotBatch, pivot_batch
from engine.learning.pivots import PivotData, PivotNetwork, build_network, count_products, score_pivots, train_pivots
from engine.methods.base import GraphShape, Method, Model, select_stage, which_edges
from engine.methods.fitting import checkpoint, read_network, report_steps, write_weights
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, write_edges
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext
from engine.tiles import map_tiles, tile_bounds

VERSION = 1
TILE_PIVOTS = 64
_HERE = "engine.methods.l_gcn"


class LGcn(Method):
    """L-GCN's stages."""

    name = "l_gcn"
    learned = True
    needs_model = True
    read_facts = ("network",)
    training_sections = ("l_gcn", "sampling", "train")

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The network over a pivot's subgraph."""
        config = LGcnConfig(**model.facts["network"])
        return {"": partial(build_network, model.dim, config.widths, config.hidden, seed=0)}

    def untrained(self, settings: Settings) -> dict[str, Any]:
        """What a model's weights belong to."""
        return {"network": settings.l_gcn.model_dump(mode="json")}

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``directed``, every vertex's scores of what it lists, and ``score``."""
        assert model is not None
        edges = which_edges(settings, model)
        params = {"network": model.facts["network"], "model": model.digest}
        return _scoring(graph, LGcnConfig(**model.facts["network"]), params, edges, {}, {"weights": model.weights})

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``fit``, then scoring of the whole graph and ``select``, which chooses the thresholds."""
        where = {"labels": labels["labels"], "column": labels["column"]}
        network = {"network": settings.l_gcn.model_dump(mode="json")}
        edges = which_edges(settings)
        params = network | {
            "train": settings.train.model_dump(mode="json"), "identity_balance": settings.sampling.identity_balance,
            "seed": settings.seed, "labels": labels["digest"], "min_similarity": edges["min_similarity"],
        }  # fmt: skip
        inputs = {"features": graph.features, "knn": "knn"} | graph.ordered
        config, pivots = settings.l_gcn, settings.l_gcn.pivots_per_step
        cost = Cost(
            fixed_bytes=graph.num_rows * 48 + pivots * _members(graph.k, config) * sum(config.widths) * 64,
            disk_bytes=32 << 20, seconds=settings.train.max_steps * pivots * _products(graph, config) * 6 / 4e10,
            kind="floats",
        )  # fmt: skip
        fit = Stage("fit", f"{_HERE}:fit", VERSION, params, inputs, 1, cost, where, granule=1)
        select = select_stage(graph, settings, labels, settings.train.holdout)
        return [fit, *_scoring(graph, config, network, edges, {"fit": "fit"}, {}), select]


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train from the last checkpoint; write ``weights.safetensors``."""
    config = LGcnConfig(**task.params["network"])
    graph = task.array("knn", "neighbors"), task.array("knn", "similarities")
    floor = task.params["min_similarity"]
    data = PivotData(
        features_ND=task.array("features", "features"), neighbors_NK=graph[0], identities_N=vertex_identities(task),
        usable_N=np.asarray(graph[0][:, 0]) >= 0, batch_of=lambda pivots: _batch(*graph, pivots, floor, config),
    )  # fmt: skip
    with checkpoint(task) as kept:
        network, history = train_pivots(
            data, widths=config.widths, hidden=config.hidden, config=TrainConfig(**task.params["train"]),
            pivots_per_step=config.pivots_per_step, identity_balance=task.params["identity_balance"],
            seed=task.params["seed"], checkpoint=kept, progress=report_steps(task), device=task.call.device,
        )  # fmt: skip
        write_weights(task, network.state_dict())
    return {"network": dict(task.params["network"]), "history": [entry.__dict__ for entry in history]}


def directed(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``logits`` (N, K) float16: each row's log-odds of what it lists, NaN where it scores nothing."""
    config, floor = LGcnConfig(**task.params["network"]), task.params["min_similarity"]
    features_ND = task.array("features", "features")
    graph = task.array("knn", "neighbors"), task.array("knn", "similarities")
    network = _network(task, features_ND.shape[1], config)
    logits = np.full((stop - start, graph[0].shape[1]), np.nan, np.float16)

    def run(tile: tuple[int, int]) -> None:
        pivots = np.arange(*tile)
        batch = _batch(*graph, pivots, floor, config)
        if len(batch.scored):
            found = score_pivots(network, features_ND, pivots, batch, device=task.call.device)
            logits[batch.scored_rows + tile[0] - start, batch.scored_ranks] = found

    map_tiles(run, tile_bounds(start, stop, TILE_PIVOTS), task.threads)
    task.write_rows("logits", logits, np.float16)
    return {}


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with the mean of the probabilities that their ends give each other."""
    neighbors_NK, logits_NK = task.array("knn", "neighbors"), task.array("directed", "logits")

    def give(sources: np.ndarray, targets: np.ndarray, _: np.ndarray) -> np.ndarray:
        scores = np.zeros(len(sources), np.float32)
        parts = tile_bounds(0, len(sources), 65_536)
        widened = logits_NK.view(np.int16)
        map_tiles(lambda t: _average_directions(neighbors_NK, widened, sources[slice(*t)], targets[slice(*t)],
                                                scores[slice(*t)]), parts, task.threads)  # fmt: skip
        return scores

    return write_edges(task, start, stop, give)


def _scoring(
    graph: GraphShape, config: LGcnConfig, params: Mapping[str, Any], edges: Mapping[str, Any],
    weights: Mapping[str, str], where: Mapping[str, Any],
) -> list[Stage]:  # fmt: skip
    n, k = graph.num_rows, graph.k
    cost = Cost(
        bytes_per_row=k * 2, fixed_bytes=64 << 20, disk_bytes=n * k * 2,
        bytes_per_thread=TILE_PIVOTS * _members(k, config) * (graph.dim + max(config.widths) * 4) * 8,
        seconds=n * _products(graph, config) * 2 / 4e10, kind="floats",
    )  # fmt: skip
    given = dict(params) | {"min_similarity": edges["min_similarity"]}
    inputs = {"features": graph.features, "knn": "knn", **weights}
    each = Stage("directed", f"{_HERE}:directed", VERSION, given, inputs, n, cost, where)
    cost = Cost(bytes_per_row=k * EDGE_BYTES, disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1e7)
    inputs = {"knn": "knn", "directed": "directed"}
    return [each, Stage("score", f"{_HERE}:score", VERSION, dict(edges), inputs, n, cost)]


def _batch(
    neighbors_NK: np.ndarray, similarities_NK: np.ndarray, pivots: np.ndarray, floor: float, config: LGcnConfig
) -> PivotBatch:
    wanted = (neighbors_NK[pivots] >= 0) & (similarities_NK[pivots] >= np.float32(floor))
    return pivot_batch(
        neighbors_NK, pivots, wanted, second_hop=config.second_hop, active=config.active, with_pivot=True
    )


def _network(task: TaskContext, dim: int, config: LGcnConfig) -> PivotNetwork:
    build = partial(build_network, dim, config.widths, config.hidden, seed=0)
    return read_network(task, build, device=task.call.device)


def _members(k: int, config: LGcnConfig) -> int:
    """Members of a pivot, about: many second neighbours are first ones, or each other's."""
    return int(1 + k * (1 + config.second_hop / 4))


def _products(graph: GraphShape, config: LGcnConfig) -> float:
    """Multiplications of one pivot."""
    return float(_members(graph.k, config) * count_products(graph.dim, config.widths))


@numba.njit(nogil=True, cache=True)
def _average_directions(neighbors: Any, logits: Any, sources: Any, targets: Any, scores: Any) -> None:
    for edge in range(len(sources)):
        total, count = np.float32(0.0), np.float32(0.0)
        for own, other in ((sources[edge], targets[edge]), (targets[edge], sources[edge])):
            rank = rank_listed(neighbors[own], other)
            if rank >= 0:
                value = widen(logits[own, rank])
                if not np.isnan(value):
                    total += np.float32(1.0) / (np.float32(1.0) + np.exp(-value))
                    count += np.float32(1.0)
        scores[edge] = total / count if count > 0 else np.float32(0.0)
