"""The map equation (Rosvall and Bergstrom, PNAS 2008): modules that a walk along the scored edges seldom leaves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import ceil
from typing import Any

from engine.clustering.biased_modules import BiasedModules, Inside
from engine.clustering.csr import build_weighted_adjacency
from engine.clustering.evidence import biased_score, weigh_edges
from engine.clustering.label_free import LEAST_COSINE, LEAST_PROBABILITY
from engine.clustering.map_equation import in_one_range
from engine.clustering.module_rounds import ModuleRange
from engine.errors import ConfigError
from engine.learning.selection import scan_scores
from engine.partitions.base import (
    Array,
    Clustered,
    Edges,
    EdgeThresholds,
    Find,
    Partition,
    Point,
    Trial,
    Work,
    unbiased_score,
)
from engine.partitions.settings import PartitionName
from engine.runs.step import Facts, Task, companion_task, where
from engine.stages import Cost
from engine.steps.crossing import Crossing
from engine.steps.links import linked_rows, module_ranges, walk_cost
from engine.storage.companions import Companions
from engine.storage.context import TaskCall

SCORED_RANGE = f"{__name__}:ScoredRange"


@dataclass(frozen=True, kw_only=True, eq=False)
class Modules(EdgeThresholds, Clustered):
    """Modules by the map equation, over edges of score >= min_score; a bias splits or joins those without one.

    ``offered``: the most edges of a row. ``ranges``: of vertices, each held by a companion; 0: as many as there are
    workers for.
    """

    kind, version = "map_equation.roots", 6
    all_workers = True
    crossing: Crossing
    seed: int
    offered: int = where()
    ranges: int = where(0)

    def cost(self) -> Cost:
        """Project the weighted graph, and a search for each step of the bias."""
        return walk_cost(self.num_vertices, self.offered, 1 + ceil(abs(self.precision_bias)))

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Find the modules."""
        point = self.operating_point(task)

        def ranges_at(bias: float, inside_N: Inside) -> AbstractContextManager[Companions]:
            return module_ranges(task, SCORED_RANGE, self.num_vertices, self.ranges, point, bias, inside_N)

        found = BiasedModules(ranges_at, seed=self.seed).at(self.precision_bias)
        task.write_npy("roots", found.roots_N)
        facts = {
            "partition": "map_equation",
            "edges_kept": found.num_edges,
            "codelength": found.codelength,
            "rounds": found.num_rounds,
        }
        return {**point, **facts}


class ScoredRange(ModuleRange):
    """A range that reads the edges of its rows, weighed at an operating point and a bias."""

    def __init__(self, call: TaskCall, start: int, stop: int, point: Point, bias: float, inside_N: Inside) -> None:
        step, task = companion_task(call, Modules)

        def weigh(*edges: Array) -> tuple[Array, Array, Array]:
            return _weigh(edges, point, bias, step.learned, inside_N)

        rows = linked_rows(task, step.score, step.crossing, start, stop, weigh)
        super().__init__(start, step.num_vertices, *rows, threads=task.threads)


class MapEquationPartition(Partition):
    """Modules that describe a walk in few bits."""

    name: PartitionName = "map_equation"
    words = "map equation"
    head_start = 0.01  # unseen identities chain more than held-out ones, and this partition is tuned the least

    def point_words(self, point: Point) -> list[str]:
        """Describe the edges' weights."""
        return [f"edges weighted by {point['weight'].replace('_', ' ')}"]

    def cluster(self, work: Work) -> Clustered:
        """Make the one step; raises ``ConfigError`` for weights that the scores cannot give."""
        config, learned = work.config, work.learned
        weight = config.weight
        if weight == "auto":
            weight = "log_odds" if learned else "exponential"
        if weight == "log_odds" and not learned:
            raise ConfigError(
                "partition.weight log_odds needs probabilities that a method has learned; "
                "with cosines use exponential or score"
            )
        least = config.min_score
        if least is None:
            stored = work.stored.min_score if work.stored else LEAST_PROBABILITY
            least = stored if learned else LEAST_COSINE
        given: dict[str, Any] = {"min_score": least, "weight": weight}
        if weight == "exponential":
            given["bandwidth"] = config.bandwidth
        return Modules(
            score=work.score,
            crossing=work.crossing,
            ranges=config.module_ranges,
            chosen=None,
            given=given,
            precision_bias=config.precision_bias,
            learned=learned,
            seed=work.seed,
            offered=work.num_edges,
        )

    def find(
        self, edges: Edges, num_vertices: int, point: Point, *, learned: bool, step: float, seed: int, threads: int
    ) -> Find:
        """Find modules of edges by the point's weights."""
        modules = _modules(edges, num_vertices, point, learned, threads, seed)
        return lambda bias: modules.at(bias).roots_N

    def search(self, trial: Trial) -> Point:
        """Search ``min_score`` alone, by steps of half a logit; weights are the log-odds above it."""

        def modules(min_score: float) -> Point:
            point = {"min_score": min_score, "weight": "log_odds"}
            found = _modules(trial.edges, trial.num_vertices, point, True, trial.threads, trial.seed)
            return {"min_score": min_score, **trial.measure(found.at(0.0).roots_N)}

        return scan_scores(modules)


def _modules(edges: Edges, num_vertices: int, point: Point, learned: bool, threads: int, seed: int) -> BiasedModules:
    """The modules of scored edges in memory at any bias, by the weights of an operating point."""

    def ranges_at(bias: float, inside_N: Inside) -> AbstractContextManager[Companions]:
        blocks = [_weigh(edges, point, bias, learned, inside_N)]
        graph = build_weighted_adjacency(num_vertices, lambda: blocks, threads)
        return nullcontext(in_one_range(*graph, threads))

    return BiasedModules(ranges_at, seed=seed)


def _weigh(
    edges: tuple[Array, ...], point: Point, bias: float, learned: bool, inside_N: Inside
) -> tuple[Array, Array, Array]:
    """Pick the edges that count at a bias, those inside the clusters of ``inside_N`` if there are some; weigh them."""
    min_score = biased_score(unbiased_score(point), bias, learned)
    sources, targets, weights = weigh_edges(edges, point["weight"], min_score, point.get("bandwidth", 1.0))
    if inside_N is not None:
        inside = inside_N[sources] == inside_N[targets]
        sources, targets, weights = sources[inside], targets[inside], weights[inside]
    return sources, targets, weights
