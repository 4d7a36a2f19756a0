"""How far a trained model's scores fit the rows at hand, told by the two opinions that need no labels.

A model of other data ranks edges well, but more rows and so more strangers, other densities or another kind of data
move the odds that it should give. The opinions see the rows at hand. They move the model's even odds by nearly as much
as the truth would (docs/decisions/0034).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.clustering.label_free import LEAST_PROBABILITY
from engine.methods.base import Graph
from engine.methods.self_trained.method import counted_once, opinions, without_copies
from engine.methods.self_trained.odds import CorrectedScores, Saying, corrected
from engine.runs.step import Facts, Step, Task
from engine.settings import Settings
from engine.stages import Cost
from engine.steps.edges import Scores


@dataclass(frozen=True, kw_only=True, eq=False)
class MovedPoint(Step[Facts]):
    """``point.json``: the model's least score; even odds where its scores were moved, as it knew none of these rows."""

    kind, version, title = "adaptation.point", 2, "moved"
    said: Saying
    stored: float

    def cost(self) -> Cost:
        """Project next to nothing."""
        return Cost(disk_bytes=4096)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Choose."""
        facts: Facts = {"min_score": LEAST_PROBABILITY if task.facts(self.said).even else self.stored}
        task.write_json("point", facts)
        return facts


def adapt(graph: Graph, settings: Settings, score: Scores) -> CorrectedScores:
    """The step that corrects a model's scores for the rows at hand."""
    graph = replace(graph, prefix="opinion_")
    listed, copies = counted_once(graph, settings.seed)
    first = opinions(without_copies(graph, copies), settings, copies, listed)
    return corrected(score, first, copies, graph.order, None)
