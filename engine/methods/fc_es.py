"""FC-ES (Liu, "Face Clustering via Early Stopping and Edge Recall", arXiv 2408.13431), the part that needs no labels.

How it scores: every vertex walks along its neighbours, nearest first, until the share of steps that lead to vertices
which both ends list, NEP, falls below theta. An edge's score is the largest theta at which a walk of either end still
passes it: the least NEP met up to there. So any least score of a partition is a theta, and edges that pass it are those
of the walks it stops. How it partitions: in any way; as released by the map equation at theta 0.22 (preset
``fc_es/original``). Training fits nothing and chooses partition and theta on train identities.

Deviations: links are undirected, and weigh as their score, where the released code keeps directions and gives each its
own NEP; edge recall, FC-ESER's learned second part, is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.config import Settings
from engine.graph.early_stop import farther_walks, walk_neighbors
from engine.methods.base import GraphShape, Method, Model, select_stage, which_edges
from engine.methods.fitting import nothing_to_fit
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, write_edges
from engine.storage.context import TaskContext

VERSION = 1
_HERE = "engine.methods.fc_es"


class FcEs(Method):
    """FC-ES's stages."""

    name = "fc_es"
    learned = True
    chooses = True
    min_score = 0.22

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``walks``, how far each row's list is followed, and ``score``."""
        n, k = graph.num_rows, graph.k
        cost = Cost(bytes_per_row=k * 2, disk_bytes=n * k * 2, seconds=n * k * k / 5e8)
        walks = Stage("walks", f"{_HERE}:walk", VERSION, {}, {"knn": "knn"}, n, cost)
        cost = Cost(bytes_per_row=k * EDGE_BYTES, disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1e7)
        inputs = {"knn": "knn", "walks": "walks"}
        return [walks, Stage("score", f"{_HERE}:score", VERSION, which_edges(settings, model), inputs, n, cost)]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``walks``, ``score``, and ``select``, which chooses theta; the weights are none."""
        select = select_stage(graph, settings, labels, settings.train.holdout)
        return [nothing_to_fit(), *self.scoring_stages(graph, settings, None), select]


def walk(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``reached`` (N, K) float16: the largest theta at which each row's walk passes what it lists."""
    graph = task.array("knn", "neighbors"), task.array("knn", "similarities")
    task.write_rows("reached", walk_neighbors(*graph, start, stop, threads=task.threads), np.float16)
    return {}


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with the largest theta at which a walk of either end passes them."""
    walks = task.array("knn", "neighbors"), task.array("walks", "reached")
    return write_edges(task, start, stop, lambda a, b, _: farther_walks(*walks, a, b, threads=task.threads))
