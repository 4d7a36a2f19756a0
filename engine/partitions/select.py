"""Step select: choose the partitions' thresholds on the identities that training held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.learning.held_out import hold_out
from engine.learning.selection import VERSION, held_out_measure, mean_f
from engine.partitions import OWN, PARTITIONS, PARTITIONS_VERSION
from engine.partitions.base import Array, Edges, Trial
from engine.runs.step import Facts, Step, Task
from engine.stages import Cost
from engine.steps.edges import SCORED, Scores, iterate_edges
from engine.steps.knn import Order
from engine.steps.labels import Labelled

FLOOR_SHARE = 0.0005  # drops a seventh of part1's edges, a quarter of real sets' edges; at 0.001 faces lose 0.1 of F


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection(Step[Facts]):
    """``selected.json``: operating points, the preferred partition, and facts of the model."""

    title = "select"


@dataclass(frozen=True, kw_only=True, eq=False)
class Select(Labelled[Facts], Selection):
    """Chooses the thresholds of the ``partitions``, all if none is named, on the share ``holdout`` of identities."""

    kind, version = "select", VERSION + PARTITIONS_VERSION
    score: Scores
    order: Order | None
    seed: int
    holdout: float
    step: float
    partitions: tuple[str, ...] = ()

    def cost(self) -> Cost:
        """Project all edges in memory, clustered at each threshold tried."""
        n, k = self.score.num_rows, self.score.knn.k
        return Cost(fixed_bytes=n * 200 + n * k * 40, disk_bytes=1 << 16, seconds=n * k / 2.8e5)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Choose the thresholds; the facts include the similarity floor that the points need."""
        identities_N = self.identities(self.order, task)
        folder = task.input(self.score)
        parts = list(iterate_edges(folder, SCORED))
        selected = select_operating_points(
            Edges(*(np.concatenate(column) for column in zip(*parts, strict=True))),
            identities_N=identities_N,
            held_out_N=hold_out(identities_N, self.holdout, self.seed),
            step=self.step,
            seed=self.seed,
            threads=task.threads,
            partitions=self.partitions,
        )
        del parts
        preferred = selected.pop("preferred")
        floor = similarity_floor(folder, min(point["min_score"] for point in selected.values()))
        facts = {"min_similarity": floor}
        task.write_json("selected", {"operating_points": selected, "preferred": preferred, "facts": facts})
        return {"preferred": preferred, **selected[preferred]}


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectOwn(Selection):
    """Stands for the choice in a method that clusters by itself and has no thresholds."""

    kind, version = "select.own", 1
    fit: Step[Facts]

    def cost(self) -> Cost:
        """Project next to nothing."""
        return Cost(disk_bytes=1 << 12)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Write that there is no threshold."""
        task.write_json("selected", {"operating_points": {}, "preferred": OWN})
        return {}


def select_operating_points(
    edges: Edges,
    *,
    identities_N: Array,
    held_out_N: Array,
    step: float = 0.05,
    seed: int = 0,
    threads: int = 1,
    partitions: Sequence[str] = (),
) -> dict[str, Any]:
    """Search the partitions' settings for the best mean of pairwise and BCubed F over held-out rows.

    Each point also has ``held_out_f``, ``held_out_precision``, ``held_out_recall`` (pairwise) and
    ``held_out_bcubed_f``. ``preferred`` names the best partition, head starts counted. Memory: about 40 bytes per edge
    kept at the lowest threshold tried. Raises ``DataError`` if no pair could be counted, or no edge is scored.
    """
    if len(edges.scores) == 0:
        raise DataError("thresholds: no edge was scored; lower score.min_similarity")
    _, sizes = np.unique(identities_N[identities_N >= 0], return_counts=True)
    trial = Trial(edges, len(identities_N), sizes, held_out_measure(identities_N, held_out_N), step, seed, threads)
    found = {name: PARTITIONS[name].search(trial) for name in partitions or PARTITIONS}
    preferred = max(found, key=lambda name: mean_f(found[name]) + PARTITIONS[name].head_start)
    return {**found, "preferred": preferred}


def similarity_floor(folder: Path, min_score: float) -> float:
    """Find the similarity that all but ``FLOOR_SHARE`` of the edges of score >= ``min_score`` reach.

    Below that similarity edges are many and hardly any survives, so a run with this model need not score them.
    """
    kept = [np.zeros(0, np.float32)]
    for similarities, scores in iterate_edges(folder, ("similarity", "score")):
        kept.append(similarities[scores >= np.float32(min_score)])
    values = np.concatenate(kept)
    place = int(FLOOR_SHARE * len(values))
    return float(np.partition(values, place)[place]) if len(values) else 0.0
