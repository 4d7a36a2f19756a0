"""FC-ES and FC-ESER (Liu, "Face Clustering via Early Stopping and Edge Recall", arXiv 2408.13431).

How ``fc_es`` scores: every vertex walks along its neighbours, nearest first, until the share of steps that lead to
vertices which both ends list, NEP, falls below theta. An edge's score is the largest theta at which a walk of either
end still passes it: the least NEP met up to there. So any least score of a partition is a theta, and edges that pass it
are those of the walks it stops. ``fc_eser`` takes back edges beyond the stop whose NEP is at least ``fc_es.delta`` and
which a learned test of pairs gives a probability of at least ``fc_es.eta``: their score is that probability. Either
partitions in any way; as released by the map equation at theta 0.22 (presets ``fc_es/original``, ``fc_eser/original``).
Training chooses partition and theta on held-out identities.

Deviations: links are undirected, and weigh as their score, where the released code keeps directions and gives each its
own NEP; training chooses how many neighbours are read, too (published: 80), as NEP says little where they are many more
than an identity has rows. The test of pairs is the structural scorer's boosted trees, fitted to all edges of the graph,
where the released one is a transformer over both ends' 80 neighbours, fitted to the edges beyond the stop: a thousand
times the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine.config import Settings
from engine.graph.adjacency import undirected_edges
from engine.graph.early_stop import edge_probabilities, edge_scores
from engine.graph.features import MAX_RANKS
from engine.learning import selection
from engine.learning.training import hold_out
from engine.methods.base import GraphShape, Method, Model, which_edges
from engine.methods.fitting import nothing_to_fit
from engine.methods.structural import Structural, fitting_stages
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, iterate_edges, read_edges, write_edges
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext

VERSION = 3
COUNTS = (10, 20, 40)  # of neighbours that training tries, beside all
COMPARED = 5e8  # listings that two ends are compared by, a second
_HERE = "engine.methods.fc_es"


class FcEs(Method):
    """FC-ES's stages."""

    name = "fc_es"
    learned = True
    chooses = True
    min_score = 0.22
    read_facts = ("neighbors",)
    run_sections = ("fc_es",)
    training_sections = ("train",)

    def reads(self, name: str, *, training: bool) -> bool:
        """Nothing is taken back."""
        return name not in ("fc_es.delta", "fc_es.eta") and super().reads(name, training=training)

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``nep``, of each row and what it lists, and ``score``."""
        count = _read_neighbors(graph, settings, model)
        return [_nep(graph, count), _score(graph, count, _edges_read(graph, settings, model), {})]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``select``, which chooses the number of neighbours and theta; the weights are none."""
        return [nothing_to_fit(), _select(graph, settings, labels, settings.train.holdout, {})]


class FcEser(Method):
    """FC-ES's, and those of the structural scorer, which says what is taken back."""

    name = "fc_eser"
    learned = True
    needs_model = True
    min_score = 0.22
    read_facts = ("neighbors", "delta", "eta")
    run_sections = ("fc_es",)
    training_sections = ("trees",)

    def reads(self, name: str, *, training: bool) -> bool:
        """What is taken back is settled by training."""
        if name in ("fc_es.delta", "fc_es.eta"):
            return training
        return super().reads(name, training=training)

    def check_weights(self, model: Model) -> None:
        """Refuse what is no structural scorer."""
        Structural().check_weights(model)

    def untrained(self, settings: Settings) -> dict[str, Any]:
        """What is taken back."""
        config = settings.fc_es
        return {"neighbors": config.neighbors or MAX_RANKS, "delta": config.delta, "eta": config.eta}

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``neighborhoods``, ``prior`` and ``pairs``, the trees' probability of every edge; ``nep`` and ``score``."""
        assert model is not None
        count, edges = _read_neighbors(graph, settings, model), _edges_read(graph, settings, model)
        *before, pairs = Structural().scoring_stages(graph, settings, model)
        pairs = replace(pairs, name="pairs", params={**pairs.params, **edges}, scratch=True)
        recall = {key: model.facts[key] for key in ("delta", "eta")}
        return [*before, pairs, _nep(graph, count), _score(graph, count, edges | recall, {"pairs": "pairs"})]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """The trees' stages up to ``pairs``, and ``select``, which chooses the number of neighbours and theta."""
        where = {"labels": labels["labels"], "column": labels["column"]}
        *before, pairs = fitting_stages(graph, settings, {"labels": labels["digest"]}, {}, where, which_edges(settings))
        select = _select(graph, settings, labels, settings.trees.holdout, {"pairs": "pairs"})
        return [*before, replace(pairs, name="pairs"), select]


def _read_neighbors(graph: GraphShape, settings: Settings, model: Model | None) -> int:
    return min(settings.fc_es.neighbors or (model.facts["neighbors"] if model else MAX_RANKS), graph.k)


def _edges_read(graph: GraphShape, settings: Settings, model: Model | None) -> dict[str, Any]:
    count, edges = _read_neighbors(graph, settings, model), which_edges(settings, model)
    return edges | {"max_edges_per_vertex": min(edges["max_edges_per_vertex"] or count, count)}


def _nep(graph: GraphShape, count: int) -> Stage:
    n = graph.num_rows
    cost = Cost(bytes_per_row=count * 2, disk_bytes=n * count * 2, seconds=n * count * count / COMPARED)
    return Stage("nep", f"{_HERE}:compare", VERSION, {"neighbors": count}, {"knn": "knn"}, n, cost)


def _score(graph: GraphShape, count: int, params: Mapping[str, Any], further: Mapping[str, str]) -> Stage:
    n, k = graph.num_rows, graph.k
    cost = Cost(bytes_per_row=k * EDGE_BYTES, disk_bytes=n * count * STORED_BYTES, seconds=n * k / 1e7)
    return Stage("score", f"{_HERE}:score", VERSION, dict(params), {"knn": "knn", "nep": "nep", **further}, n, cost)


def _select(
    graph: GraphShape, settings: Settings, labels: Mapping[str, Any], holdout: float, further: Mapping[str, str]
) -> Stage:
    n, k, config = graph.num_rows, graph.k, settings.fc_es
    counts = [config.neighbors] if config.neighbors else [each for each in COUNTS if each < k] + [k]
    counts = [min(each, k, MAX_RANKS) for each in counts]
    params = {
        "seed": settings.seed, "labels": labels["digest"], "holdout": holdout, "step": settings.partition.step,
        "neighbors": counts, "selection": selection.VERSION,
    } | which_edges(settings) | ({"delta": config.delta, "eta": config.eta} if further else {})  # fmt: skip
    cost = Cost(
        fixed_bytes=n * 200 + n * k * 48, disk_bytes=1 << 16,
        seconds=sum(n * count / 2.8e5 + n * count * count / COMPARED for count in counts),
    )  # fmt: skip
    where = {"labels": labels["labels"], "column": labels["column"]}
    inputs = {"knn": "knn", **graph.ordered, **further}
    return Stage("select", f"{_HERE}:select", VERSION, params, inputs, 1, cost, where, granule=1)


def compare(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``nep`` (N, C) float16: the share of steps of a row and what it lists that lead to what both list."""
    graph, count = (task.array("knn", "neighbors"), task.array("knn", "similarities")), task.params["neighbors"]
    task.write_rows("nep", edge_probabilities(*graph, start, stop, count=count, threads=task.threads), np.float16)
    return {}


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with the largest theta at which a walk of either end passes them.

    With ``pairs``, edges that are taken back have what it says of them.
    """
    recall = "pairs" in task.call.inputs
    pieces = read_edges(task.input("pairs"), start, stop, ("score",)) if recall else None
    nep_NC = task.array("nep", "nep")

    def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        return _scores(task, nep_NC, sources, targets, next(pieces)[0] if pieces else None)

    return write_edges(task, start, stop, give)


def select(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Choose neighbours, partition and theta on held-out identities; write ``selected.json``."""
    identities_N = vertex_identities(task)
    held_out_N = hold_out(identities_N, task.params["holdout"], task.params["seed"])
    graph, n = (task.array("knn", "neighbors"), task.array("knn", "similarities")), len(identities_N)
    found, counts = [], task.params["neighbors"]
    for number, count in enumerate(counts):
        task.report(number / len(counts), f"{count} neighbours")
        nep_NC = edge_probabilities(*graph, 0, n, count=count, threads=task.threads)
        found.append(
            selection.select_operating_points(
                *_edges(task, nep_NC, count), identities_N=identities_N, held_out_N=held_out_N,
                step=task.params["step"], seed=task.params["seed"], threads=task.threads,
            )
        )  # fmt: skip
    values = [selection.mean_f(points[points["preferred"]]) for points in found]
    best = int(np.argmax(values))
    preferred, points = found[best].pop("preferred"), found[best]
    facts = {
        "neighbors": counts[best], "min_similarity": task.params["min_similarity"],
        "held_out_f": dict(zip(map(str, counts), values, strict=True)),
        **{key: task.params[key] for key in ("delta", "eta") if key in task.params},
    }  # fmt: skip
    task.write_json("selected", {"operating_points": points, "preferred": preferred, "facts": facts})
    return {"preferred": preferred, "neighbors": counts[best], **points[preferred]}


def _edges(task: TaskContext, nep_NC: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All edges that a walk may pass or that may be taken back: sources, targets and scores."""
    if "pairs" in task.call.inputs:
        parts = []
        for sources, targets, pairs in iterate_edges(task.input("pairs"), ("source", "target", "score")):
            scores = _scores(task, nep_NC, sources, targets, pairs)
            kept = scores > 0
            parts.append((sources[kept], targets[kept], scores[kept]))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]
    graph = task.array("knn", "neighbors"), task.array("knn", "similarities")
    most = min(task.params["max_edges_per_vertex"] or count, count)
    floor, n = task.params["min_similarity"], len(graph[0])
    sources, targets, _ = undirected_edges(*graph, 0, n, floor, max_per_vertex=most, threads=task.threads)
    return sources, targets, _scores(task, nep_NC, sources, targets, None)


def _scores(
    task: TaskContext, nep_NC: np.ndarray, sources: np.ndarray, targets: np.ndarray, pairs: np.ndarray | None
) -> np.ndarray:
    neighbors_NK = task.array("knn", "neighbors")
    passed = edge_scores(neighbors_NK, nep_NC, sources, targets, walked=True, threads=task.threads)
    if pairs is None:
        return passed
    nep = edge_scores(neighbors_NK, nep_NC, sources, targets, walked=False, threads=task.threads)
    recalled = (nep >= np.float32(task.params["delta"])) & (pairs >= np.float32(task.params["eta"]))
    return np.where(recalled, np.maximum(passed, pairs), passed)
