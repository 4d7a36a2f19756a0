"""Stage select: the partitions' thresholds, chosen on the identities that training held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.learning import selection
from engine.learning.training import hold_out
from engine.stages.edges import iterate_edges
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext

VERSION = 1
FLOOR_SHARE = 0.0005  # leaves out a seventh of part1's edges, a quarter of real sets'; at 0.001 faces lose 0.1 of F


def run(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``selected.json``: operating points, the preferred partition, and the similarity floor they need."""
    identities_N = vertex_identities(task)
    parts = list(iterate_edges(task.input("score"), ("source", "target", "score")))
    selected = selection.select_operating_points(
        *(np.concatenate(column) for column in zip(*parts, strict=True)),
        identities_N=identities_N,
        held_out_N=hold_out(identities_N, task.params["holdout"], task.params["seed"]),
        step=task.params["step"],
        partitions=task.params.get("partitions", selection.PARTITIONS),
        seed=task.params["seed"],
        threads=task.threads,
    )
    del parts
    preferred = selected.pop("preferred")
    floor = similarity_floor(task.input("score"), min(point["min_score"] for point in selected.values()))
    facts = {"min_similarity": floor}
    task.write_json("selected", {"operating_points": selected, "preferred": preferred, "facts": facts})
    return {"preferred": preferred, **selected[preferred]}


def own(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``selected.json`` of a method that clusters by itself."""
    task.write_json("selected", {"operating_points": {}, "preferred": "own"})
    return {}


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
