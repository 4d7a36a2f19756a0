"""The map equation (Rosvall and Bergstrom, PNAS 2008): modules that a walk along the scored edges seldom leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from engine.clustering.biased_modules import BiasedModules
from engine.clustering.evidence import biased_score, weigh_edges
from engine.clustering.label_free import LEAST_COSINE, LEAST_PROBABILITY
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
from engine.runs.step import Facts, Task, where
from engine.stages import Cost
from engine.steps.edges import SCORED, iterate_edges

_KEPT = 0.75  # projected edges per listed neighbour: an edge often stands in both ends' lists (part1: 0.4 to 0.7)


@dataclass(frozen=True, kw_only=True, eq=False)
class Modules(EdgeThresholds, Clustered):
    """Modules by the map equation, over edges of score >= min_score; a bias splits or joins those without one.

    ``offered``: the most edges of a row.
    """

    kind, version = "map_equation.roots", 5
    seed: int
    offered: int = where()

    def cost(self) -> Cost:
        """Project the weighted graph."""
        n, edges = self.num_vertices, self.num_vertices * self.offered
        return Cost(
            fixed_bytes=int(16 * _KEPT * edges) + 200 * n,
            bytes_per_thread=32 << 20,
            disk_bytes=4 * n,
            seconds=edges / 2.5e6 * (1 + ceil(abs(self.precision_bias))),
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Find the modules."""
        point = self.operating_point(task)
        edges = task.input(self.score)
        modules = _modules(
            lambda: iterate_edges(edges, SCORED), self.num_vertices, point, self.learned, task.threads, self.seed
        )
        found, num_edges = modules.at(self.precision_bias)
        task.write_npy("roots", found.roots_N)
        facts = {
            "partition": "map_equation",
            "edges_kept": num_edges,
            "codelength": found.codelength,
            "rounds": found.num_rounds,
        }
        return {**point, **facts}


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
        modules = _modules(lambda: [edges], num_vertices, point, learned, threads, seed)
        return lambda bias: modules.at(bias)[0].roots_N

    def search(self, trial: Trial) -> Point:
        """Search ``min_score`` alone, by steps of half a logit; weights are the log-odds above it."""

        def modules(min_score: float) -> Point:
            point = {"min_score": min_score, "weight": "log_odds"}
            found = _modules(lambda: [trial.edges], trial.num_vertices, point, True, trial.threads, trial.seed)
            return {"min_score": min_score, **trial.measure(found.at(0.0)[0].roots_N)}

        return scan_scores(modules)


def _modules(
    edges: Callable[[], Iterable[tuple[Array, ...]]],
    num_vertices: int,
    point: Point,
    learned: bool,
    threads: int,
    seed: int,
) -> BiasedModules:
    """The modules of scored edges at any bias, by the weights of an operating point."""
    even, weight, bandwidth = unbiased_score(point), point["weight"], point.get("bandwidth", 1.0)

    def weighed(bias: float) -> Iterator[tuple[Array, Array, Array]]:
        min_score = biased_score(even, bias, learned)
        for block in edges():
            yield weigh_edges(block, weight, min_score, bandwidth)

    return BiasedModules(num_vertices, weighed, threads=threads, seed=seed)
