"""CDP, Consensus-Driven Propagation (Zhan et al., ECCV 2018): pairs of a base graph, judged by a committee of others.

``cdp``: a pair's score is its cosine; with a committee (``cdp.committee``: other vectors of the same rows) only pairs
that enough members list too are scored (vote, section 3.3). ``cdp_mediator``: a small network scores every pair from
what base and committee say of it. Both partition by size-capped propagation (section 3.4); leftovers are never dumped
into one cluster.

Deviations: a member votes for a pair if either row lists the other; thresholds and the size cap are chosen on train
identities unless set; the mediator stops on held-out identities, and its probabilities may be partitioned in any way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from engine.config import Settings, TrainConfig
from engine.errors import ConfigError
from engine.graph.adjacency import EdgeList, undirected_edges
from engine.learning.mediator import Member, build_mediator, count_votes, mediate, pair_inputs, train_mediator
from engine.learning.training import hold_out
from engine.methods.base import GraphShape, Method, Model, select_stage, which_edges
from engine.methods.fitting import checkpoint, nothing_to_fit, read_network, report_steps, write_weights
from engine.plan import CHUNK_ROWS, Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, write_edges
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext, hold, read_npy

VERSION = 1
MOST_MEMBERS = 1_000
_HERE = "engine.methods.cdp"


class Cdp(Method):
    """CDP by cosines, or by vote."""

    name = "cdp"
    takes_committee = True
    run_sections = ("cdp",)
    training_sections = ("train",)
    chooses = True
    partitions = ("propagation",)

    def check(self, settings: Settings, *, training: bool) -> None:
        """Refuse more votes than there are members, too."""
        super().check(settings, training=training)
        config = settings.cdp
        if "accept" in config.model_fields_set and config.accept > len(config.committee):
            raise ConfigError(
                f"cdp.accept = {config.accept} asks for more votes than cdp.committee has members, "
                f"{len(config.committee)}: lower it, or name more members"
            )

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``score``: the pairs that enough members list."""
        accept = min(settings.cdp.accept, len(graph.committee))
        params = {"accept": accept} | which_edges(settings)
        return [_stage("score", "vote", graph, params, _inputs(graph) if accept else {"knn": "knn"})]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``score``, and ``select``, which chooses the least cosine and the size cap; the weights are none."""
        return [
            nothing_to_fit(),
            *self.scoring_stages(graph, settings, None),
            select_stage(graph, settings, labels, settings.train.holdout, self.partitions),
        ]


class CdpMediator(Method):
    """CDP's mediator."""

    name = "cdp_mediator"
    learned = True
    needs_model = True
    takes_committee = True
    run_sections = ("cdp",)
    training_sections = ("train",)
    read_facts = ("network",)

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The mediator."""
        members = model.facts["network"]["members"]
        if type(members) is not int or not 0 <= members <= MOST_MEMBERS:
            raise ValueError(f"members: expected a number from 0 to {MOST_MEMBERS}, got {members!r}")
        return {"": partial(build_mediator, 3 * members + 2, seed=0)}

    def reads(self, name: str, *, training: bool) -> bool:
        """A mediator takes the place of votes."""
        return name != "cdp.accept" and super().reads(name, training=training)

    def untrained(self, settings: Settings) -> dict[str, Any]:
        """The number of members that a model's weights belong to."""
        return {"network": {"members": len(settings.cdp.committee)}}

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``score``, with the weights of ``model``."""
        assert model is not None
        trained = model.facts["network"]["members"]
        if trained != len(graph.committee):
            raise ConfigError(
                f"{model.folder} was trained with {trained} committee members, cdp.committee names "
                f"{len(graph.committee)}: give as many, of the same kinds and in the same order"
            )
        params = {"model": model.digest} | which_edges(settings, model)
        return [_stage("score", "score", graph, params, _inputs(graph), {"weights": model.weights})]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``fit``, then scoring of all pairs and ``select``."""
        where = {"labels": labels["labels"], "column": labels["column"]}
        params = {
            "train": settings.train.model_dump(mode="json"), "seed": settings.seed, "labels": labels["digest"],
            "network": self.untrained(settings)["network"],
        }  # fmt: skip
        n, pairs = graph.num_rows, graph.num_rows * graph.k
        held = n * 60 + pairs * (12 * len(graph.committee) + 40)
        cost = Cost(fixed_bytes=held, disk_bytes=1 << 20, seconds=pairs / 5e5)
        fit = Stage("fit", f"{_HERE}:fit", VERSION, params, _inputs(graph), 1, cost, where, granule=1)
        score = _stage("score", "score", graph, which_edges(settings), _inputs(graph) | {"fit": "fit"})
        return [fit, score, select_stage(graph, settings, labels, settings.train.holdout)]


def vote(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the pairs of these rows with their cosine, -1 for those that too few members list."""
    accept = task.params["accept"]
    if not accept:
        return write_edges(task, start, stop, lambda _a, _b, similarities: similarities)
    _, members, rows_V = _committee(task)

    def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        votes = count_votes(members, _rows(rows_V, sources), _rows(rows_V, targets))
        return np.where(votes >= accept, similarities, -1).astype(np.float32)

    return write_edges(task, start, stop, give)


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train from the last checkpoint on all pairs of known identity; write ``weights.safetensors``."""
    identities_N = vertex_identities(task)
    held_out_N = hold_out(identities_N, task.params["train"]["holdout"], task.params["seed"])
    base, members, rows_V = _committee(task)
    inputs, same, held_out = [], [], []
    for edges in _blocks(task):
        known = (identities_N[edges.sources] >= 0) & (identities_N[edges.targets] >= 0)
        a, b, cosines = (column[known] for column in edges)
        inputs.append(pair_inputs(base, members, _rows(rows_V, a), _rows(rows_V, b), cosines, threads=task.threads))
        same.append(identities_N[a] == identities_N[b])
        held_out.append(held_out_N[a] | held_out_N[b])
    with checkpoint(task) as kept:
        mediator, history = train_mediator(
            np.concatenate(inputs), np.concatenate(same), np.concatenate(held_out),
            config=TrainConfig(**task.params["train"]), seed=task.params["seed"], checkpoint=kept,
            progress=report_steps(task),
        )  # fmt: skip
        write_weights(task, mediator.state_dict())
    return {"network": dict(task.params["network"]), "history": [entry.__dict__ for entry in history]}


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the pairs of these rows with the mediator's probability."""
    base, members, rows_V = _committee(task)
    mediator = read_network(task, partial(build_mediator, 3 * len(members) + 2, seed=0))

    def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        rows = _rows(rows_V, sources), _rows(rows_V, targets)
        inputs = pair_inputs(base, members, *rows, similarities, threads=task.threads)
        return mediate(mediator, inputs, threads=task.threads)

    return write_edges(task, start, stop, give)


def _committee(task: TaskContext) -> tuple[Member, list[Member], np.ndarray | None]:
    """The base and the members, both by source row, and the row of each vertex of the base."""

    def order(name: str) -> np.ndarray | None:
        return np.array(read_npy(task.input(name), "row_of_vertex")) if name in task.call.inputs else None

    def member(prefix: str) -> Member:
        rows_V = order(f"{prefix}order")
        vertex_of_row = None
        if rows_V is not None:
            vertex_of_row = np.empty_like(rows_V)
            vertex_of_row[rows_V] = np.arange(len(rows_V), dtype=rows_V.dtype)
        features_ND = task.array(f"{prefix}features", "features") if prefix else None
        return Member(task.array(f"{prefix}knn", "neighbors"), vertex_of_row, features_ND)

    def load() -> tuple[Member, list[Member], np.ndarray | None]:
        names = [name for name in task.call.inputs if name.startswith("member_") and name.endswith("_knn")]
        return member(""), [member(name.removesuffix("knn")) for name in sorted(names)], order("order")

    return hold(("committee", task.call.digest), load)


def _rows(rows_V: np.ndarray | None, vertices: np.ndarray) -> np.ndarray:
    return vertices if rows_V is None else rows_V[vertices]


def _blocks(task: TaskContext) -> Iterator[EdgeList]:
    graph = task.array("knn", "neighbors"), task.array("knn", "similarities")
    for first in range(0, len(graph[0]), CHUNK_ROWS):
        yield undirected_edges(*graph, first, min(first + CHUNK_ROWS, len(graph[0])), threads=task.threads)


def _inputs(graph: GraphShape) -> dict[str, str]:
    inputs = {"knn": "knn"} | graph.ordered
    for number, member in enumerate(graph.committee):
        inputs |= {f"member_{number:02}_{name}": stage for name, stage in member.items()}
    return inputs


def _stage(
    name: str, function: str, graph: GraphShape, params: Mapping[str, Any], inputs: Mapping[str, str],
    where: Mapping[str, Any] | None = None,
) -> Stage:  # fmt: skip
    n, k, members = graph.num_rows, graph.k, len(graph.committee)
    cost = Cost(
        fixed_bytes=n * 16 * (members + 1), bytes_per_row=k * (EDGE_BYTES + 16 * members),
        disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1.5e7 + members * n * k * k / 3e8,
    )  # fmt: skip
    return Stage(name, f"{_HERE}:{function}", VERSION, dict(params), dict(inputs), n, cost, where or {})
