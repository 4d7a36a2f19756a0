"""GCN-D and GCN-S (Yang et al., "Learning to Cluster Faces on an Affinity Graph", CVPR 2019).

What it fits: a network that rates cluster proposals by their IoU and IoP with an identity (GCN-D, section 3.3), and for
``gcn_s`` one that says which members of a proposal are of a seed's identity (GCN-S, section 3.4). How it clusters: the
proposals, super-vertices at several least similarities and unions of them (section 3.2), are rated, by ``gcn_s`` those
of middling IoP cut to their inliers, and each vertex goes to the best rated one that holds it (section 3.5).

Deviations: the default proposes at lower similarities too, and no unions (the published sets of 2, 5, 8 and 20 are
presets); what the networks read and how they convolve (``engine.learning.proposals``); one network gives IoU and IoP;
several seeds of each proposal are tried and the best rated cut is kept, as in the paper, where the released code draws
one; training stops on held-out identities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from engine.config import GcnDConfig, MethodName, Settings, TrainConfig
from engine.errors import ConfigError
from engine.graph.adjacency import EdgeList
from engine.learning.proposals import (
    Graph,
    ProposalNetwork,
    build_network,
    rate,
    refine,
    remove_overlap,
    train_proposals,
)
from engine.learning.super_vertices import Proposals, propose, searched_means, united_thresholds
from engine.learning.training import hold_out
from engine.methods.base import GraphShape, Method, Model, select_own_stage
from engine.methods.cosine import Cosine
from engine.methods.fitting import checkpoint, read_network, report_steps, write_weights
from engine.plan import Cost, Stage
from engine.stages.edges import iterate_edges
from engine.stages.knn import search_cost
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext, read_npy, stage_facts

VERSION = 2
_HERE = "engine.methods.gcn_d"
_PROPOSING = {
    "thresholds", "max_size", "min_size", "unions", "union_thresholds", "union_similarity", "union_max_size",
}  # fmt: skip


class GcnD(Method):
    """GCN-D, or GCN-D and GCN-S."""

    needs_model = True
    training_sections = ("gcn_d", "train")
    partitions = ("own",)
    read_facts = ("network",)

    def __init__(self, name: MethodName, *, segments: bool) -> None:
        self.name, self.segments = name, segments

    def check(self, settings: Settings, *, training: bool) -> None:
        """Refuse settings of unions where there are none, too."""
        super().check(settings, training=training)
        given = settings.gcn_d.model_fields_set & {"union_thresholds", "union_similarity", "union_max_size"}
        if given and not settings.gcn_d.unions:
            names = ", ".join(f"gcn_d.{name}" for name in sorted(given))
            raise ConfigError(f"{names}: without gcn_d.unions nothing is joined; set it, or leave out {names}")

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The network that rates proposals and, of GCN-S, that which cuts them."""
        config = GcnDConfig(**model.facts["network"])
        return {
            f"{_name(segments)}.": partial(build_network, model.dim, config, 0, segments=segments)
            for segments in ((False, True) if self.segments else (False,))
        }

    def untrained(self, settings: Settings) -> dict[str, Any]:
        """What a model's weights belong to."""
        return {"network": settings.gcn_d.model_dump(mode="json")}

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """The cosine graph's edges, of which proposals are made."""
        return Cosine().scoring_stages(graph, settings, None)

    def clustering_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``proposals`` and ``roots``, with the weights of ``model``."""
        assert model is not None
        network = model.facts["network"]
        params = {"model": model.digest, "network": network, "segments": self.segments}
        config = GcnDConfig(**network)
        inputs = {"features": graph.features, "knn": "knn", "proposals": "proposals"}
        where = {"weights": model.weights}
        cost = _cost(graph, config)
        roots = Stage("roots", f"{_HERE}:cluster", VERSION, params, inputs, 1, cost, where, granule=1)
        return [_proposals(graph, config), roots]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``score``, ``proposals``, ``fit`` and ``select``, which hands on that clusters are its own."""
        where = {"labels": labels["labels"], "column": labels["column"]}
        params = {
            **self.untrained(settings), "train": settings.train.model_dump(mode="json"), "segments": self.segments,
            "seed": settings.seed, "labels": labels["digest"],
        }  # fmt: skip
        inputs = {"features": graph.features, "knn": "knn", "proposals": "proposals"} | graph.ordered
        cost = _cost(graph, settings.gcn_d)
        return [
            *Cosine().scoring_stages(graph, settings, None),
            _proposals(graph, settings.gcn_d),
            Stage("fit", f"{_HERE}:fit", VERSION, params, inputs, 1, cost, where, granule=1),
            select_own_stage(),
        ]  # fmt: skip


def make_proposals(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``members`` (M,) int32 and ``starts`` (P + 1,) int64."""
    parts = list(iterate_edges(task.input("score"), ("source", "target", "similarity")))
    edges = EdgeList(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    config = GcnDConfig(**task.params["proposals"])
    proposals, cut = propose(edges, task.array("features", "features"), config, threads=task.threads)
    task.write_npy("members", proposals.members_M)
    task.write_npy("starts", proposals.starts)
    return {"proposals": len(proposals), "members": len(proposals.members_M), "cut_for_size": cut}


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train from the last checkpoint; write ``weights.safetensors`` of one network, or of both."""
    identities_N = vertex_identities(task)
    config, train = GcnDConfig(**task.params["network"]), TrainConfig(**task.params["train"])
    held_out_N = hold_out(identities_N, train.holdout, task.params["seed"])
    weights: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    kinds = (False, True) if task.params["segments"] else (False,)
    graph, proposals = _graph(task), _read(task)
    with ExitStack() as checkpoints:
        for number, segments in enumerate(kinds):
            network, history = train_proposals(
                graph, proposals, identities_N, held_out_N, segments=segments, model=config, config=train,
                seed=task.params["seed"], progress=report_steps(task, number, len(kinds)),
                checkpoint=checkpoints.enter_context(checkpoint(task, f"checkpoint-{number}")),
            )  # fmt: skip
            name = _name(segments)
            weights |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
            facts[f"{name}_history"] = [entry.__dict__ for entry in history]
        write_weights(task, weights)
    return {"network": dict(task.params["network"]), **facts}


def cluster(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Rate, refine if asked, and remove overlaps: ``roots`` (N,)."""
    config, graph, proposals = GcnDConfig(**task.params["network"]), _graph(task), _read(task)
    rater = _network(task, config, segments=False)
    ratings = rate(rater, graph, proposals, threads=task.threads)
    cut = stage_facts(task.input("proposals"))[0]["cut_for_size"]
    facts = {"partition": "own", "proposals": len(proposals), "super_vertices_cut_for_size": cut}
    if task.params["segments"]:
        middling = np.flatnonzero((ratings[:, 1] >= config.least_iop) & (ratings[:, 1] <= config.most_iop))
        segmenter = _network(task, config, segments=True)
        cuts, rated = refine(segmenter, rater, graph, proposals.take(middling), config.num_seeds, threads=task.threads)
        facts |= {"refined": len(cuts)}
        proposals, ratings = Proposals.gather([*proposals.sets(), *cuts.sets()]), np.concatenate([ratings, rated])
    num_vertices = task.array("knn", "neighbors").shape[0]
    task.write_npy("roots", remove_overlap(num_vertices, proposals, ratings[:, 0]))
    return facts


def _read(task: TaskContext) -> Proposals:
    members, starts = (np.array(read_npy(task.input("proposals"), name)) for name in ("members", "starts"))
    return Proposals(members, starts)


def _graph(task: TaskContext) -> Graph:
    return Graph(task.array("features", "features"), task.array("knn", "neighbors"))


def _name(segments: bool) -> str:
    return "segmenter" if segments else "rater"


def _network(task: TaskContext, config: GcnDConfig, *, segments: bool) -> ProposalNetwork:
    dim = task.array("features", "features").shape[1]
    build = partial(build_network, dim, config, 0, segments=segments)
    return read_network(task, build, prefix=f"{_name(segments)}.")


def _proposals(graph: GraphShape, config: GcnDConfig) -> Stage:
    n, edges = graph.num_rows, graph.num_rows * graph.k
    params = {"proposals": config.model_dump(mode="json", include=_PROPOSING)}
    held, united = _members(n, config) * 4, len(united_thresholds(config))
    search = search_cost(n, graph.dim, 4, searched_means(n))
    cost = Cost(
        fixed_bytes=n * 120 + edges * 24 + held * 2 + (n * (graph.dim * 4 + 100) if united else 0),
        bytes_per_thread=search.bytes_per_thread if united else 0, disk_bytes=held * 2,
        seconds=edges / 1e7 + held / 2e6 + united * search.seconds,
    )  # fmt: skip
    inputs = {"score": "score", "features": graph.features}
    return Stage("proposals", f"{_HERE}:make_proposals", VERSION, params, inputs, 1, cost, granule=1)


def _cost(graph: GraphShape, config: GcnDConfig) -> Cost:
    members, largest = _members(graph.num_rows, config), config.max_size
    if config.unions:
        largest = max(largest, config.union_max_size)
    return Cost(
        fixed_bytes=graph.num_rows * 40 + members * 16,
        bytes_per_thread=16 * largest * (graph.dim + config.widths[0] * 3 + graph.k * 2) * 4,
        disk_bytes=graph.num_rows * 4 + (4 << 20),
        seconds=members * graph.dim * config.widths[0] / 5e9, kind="floats",
    )  # fmt: skip


def _members(num_rows: int, config: GcnDConfig) -> int:
    """Members of all proposals together, at most."""
    return num_rows * (len(config.thresholds) + len(united_thresholds(config)) * len(config.unions))
