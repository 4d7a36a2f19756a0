"""FC-ES (Liu, "Face Clustering via Early Stopping and Edge Recall", arXiv 2408.13431), the part that needs no labels.

How it scores: every vertex walks along its neighbours, nearest first, until the share of steps that lead to vertices
which both ends list, NEP, falls below theta. An edge's score is the largest theta at which a walk of either end still
passes it: the least NEP met up to there. So any least score of a partition is a theta, and edges that pass it are those
of the walks it stops. How it partitions: in any way; as released by the map equation at theta 0.22 (preset
``fc_es/original``). Training fits nothing and chooses partition and theta on held-out identities.

Deviations: links are undirected, and weigh as their score, where the released code keeps directions and gives each its
own NEP; training chooses how many neighbours are read, too (published: 80), as NEP says little where they are many more
than an identity has rows; edge recall, FC-ESER's learned second part, is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.config import Settings
from engine.graph.adjacency import undirected_edges
from engine.graph.early_stop import farther_walks, walk_neighbors
from engine.graph.features import MAX_RANKS
from engine.learning import selection
from engine.learning.training import hold_out
from engine.methods.base import GraphShape, Method, Model, which_edges
from engine.methods.fitting import nothing_to_fit
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, write_edges
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext

VERSION = 2
COUNTS = (10, 20, 40)  # of neighbours that training tries, beside all
WALKED = 5e8  # listings that two ends are compared by, a second
_HERE = "engine.methods.fc_es"


class FcEs(Method):
    """FC-ES's stages."""

    name = "fc_es"
    learned = True
    chooses = True
    min_score = 0.22
    run_sections = ("fc_es",)
    training_sections = ("train",)

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``walks``, how far each row's list is followed, and ``score``."""
        n, k, edges = graph.num_rows, graph.k, which_edges(settings, model)
        count = min(settings.fc_es.neighbors or (model.facts["neighbors"] if model else MAX_RANKS), k)
        edges["max_edges_per_vertex"] = min(edges["max_edges_per_vertex"] or count, count)
        cost = Cost(bytes_per_row=count * 2, disk_bytes=n * count * 2, seconds=n * count * count / WALKED)
        walks = Stage("walks", f"{_HERE}:walk", VERSION, {"neighbors": count}, {"knn": "knn"}, n, cost)
        cost = Cost(bytes_per_row=k * EDGE_BYTES, disk_bytes=n * count * STORED_BYTES, seconds=n * k / 1e7)
        inputs = {"knn": "knn", "walks": "walks"}
        return [walks, Stage("score", f"{_HERE}:score", VERSION, edges, inputs, n, cost)]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``select``, which chooses the number of neighbours and theta; the weights are none."""
        n, k = graph.num_rows, graph.k
        counts = [settings.fc_es.neighbors] if settings.fc_es.neighbors else [each for each in COUNTS if each < k] + [k]
        counts = [min(each, k, MAX_RANKS) for each in counts]
        params = {
            "seed": settings.seed, "labels": labels["digest"], "holdout": settings.train.holdout,
            "step": settings.partition.step, "neighbors": counts, "selection": selection.VERSION,
        } | which_edges(settings)  # fmt: skip
        cost = Cost(
            fixed_bytes=n * 200 + n * k * 44, disk_bytes=1 << 16,
            seconds=sum(n * count / 2.8e5 + n * count * count / WALKED for count in counts),
        )  # fmt: skip
        where = {"labels": labels["labels"], "column": labels["column"]}
        inputs = {"knn": "knn"} | graph.ordered
        select = Stage("select", f"{_HERE}:select", VERSION, params, inputs, 1, cost, where, granule=1)
        return [nothing_to_fit(), select]


def walk(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``reached`` (N, C) float16: the largest theta at which each row's walk passes what it lists."""
    graph, count = (task.array("knn", "neighbors"), task.array("knn", "similarities")), task.params["neighbors"]
    task.write_rows("reached", walk_neighbors(*graph, start, stop, count=count, threads=task.threads), np.float16)
    return {}


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with the largest theta at which a walk of either end passes them."""
    walks = task.array("knn", "neighbors"), task.array("walks", "reached")
    return write_edges(task, start, stop, lambda a, b, _: farther_walks(*walks, a, b, threads=task.threads))


def select(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Choose neighbours, partition and theta on held-out identities; write ``selected.json``."""
    identities_N = vertex_identities(task)
    held_out_N = hold_out(identities_N, task.params["holdout"], task.params["seed"])
    graph, n = (task.array("knn", "neighbors"), task.array("knn", "similarities")), len(identities_N)
    found, counts = [], task.params["neighbors"]
    for number, count in enumerate(counts):
        task.report(number / len(counts), f"{count} neighbours")
        reached_NC = walk_neighbors(*graph, 0, n, count=count, threads=task.threads)
        floor, most = task.params["min_similarity"], min(task.params["max_edges_per_vertex"] or count, count)
        edges = undirected_edges(*graph, 0, n, floor, max_per_vertex=most, threads=task.threads)
        scores_E = farther_walks(graph[0], reached_NC, edges.sources, edges.targets, threads=task.threads)
        found.append(
            selection.select_operating_points(
                edges.sources, edges.targets, scores_E, identities_N=identities_N, held_out_N=held_out_N,
                step=task.params["step"], seed=task.params["seed"], threads=task.threads,
            )
        )  # fmt: skip
    values = [selection.mean_f(points[points["preferred"]]) for points in found]
    best = int(np.argmax(values))
    preferred, points = found[best].pop("preferred"), found[best]
    facts = {
        "neighbors": counts[best], "min_similarity": task.params["min_similarity"],
        "held_out_f": dict(zip(map(str, counts), values, strict=True)),
    }  # fmt: skip
    task.write_json("selected", {"operating_points": points, "preferred": preferred, "facts": facts})
    return {"preferred": preferred, "neighbors": counts[best], **points[preferred]}
