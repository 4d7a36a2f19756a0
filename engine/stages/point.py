"""Stage point: an operating point read from the graph, where no threshold is set and none comes with a model."""

from __future__ import annotations

from typing import Any

from engine.clustering.chance import chance_similarity
from engine.clustering.operating_point import TILE_ROWS, choose_operating_point, choose_scored_point
from engine.plan import Cost
from engine.stages.edges import iterate_edges
from engine.storage.context import TaskContext

VERSION = 3


def cost(num_rows: int, k: int) -> Cost:
    tile = min(num_rows, TILE_ROWS) * k * 62
    return Cost(fixed_bytes=num_rows * 120, bytes_per_thread=tile, disk_bytes=4096, seconds=num_rows * k / 2.8e6)


def run(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``point.json``: min_score, max_size and the reason in words.

    Of cosines, where few rows have a neighbour nearer than chance, ``chance`` is what counts as nearer.
    """
    neighbors_NK, similarities_NK = task.array("knn", "neighbors"), task.array("knn", "similarities")
    walk = {"step": task.params["step"], "threads": task.threads}
    facts: dict[str, Any] = {}
    if "score" in task.call.inputs:
        folder = task.input("score")
        point = choose_scored_point(
            neighbors_NK, similarities_NK, lambda: iterate_edges(folder, ("source", "target", "score")), **walk
        )
    else:
        features_ND = task.array("features", "features")
        chance = chance_similarity(features_ND, neighbors_NK, similarities_NK, threads=task.threads)
        if chance is not None:
            facts["chance"] = chance
        point = choose_operating_point(neighbors_NK, similarities_NK, chance=chance, **walk)
    facts |= {"min_score": float(point.min_score), "max_size": int(point.max_size), "reason": point.reason}
    task.write_json("point", facts)
    return facts
