"""Step figures: what the report counts over all edges, block by block: histograms, and forests for threshold sweeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine.clustering.forest import block_forest
from engine.evaluation.expected import expected_errors
from engine.evaluation.histogram import ValueHistogram
from engine.evaluation.sweep import level_of
from engine.runs.step import RowStep, Step, Task
from engine.stages import Cost
from engine.steps.crossing import READ_ROWS, Crossing, CrossingFacts, is_scored, join_facts
from engine.steps.edges import Scores, read_edges
from engine.steps.explain import VertexClusters
from engine.steps.knn import Order, by_vertex
from engine.steps.labels import Labelled, Labels
from engine.storage.context import hold, table_parts
from engine.storage.tables import read_columns
from engine.tiles import map_tiles, tile_bounds
from engine.units import CHUNK_ROWS

SWEEP_STEPS = 40
VALUES = ("similarity", "score")


@dataclass(frozen=True)
class FigureFacts:
    """What the rows' edges add up to.

    ``histograms``: counts by name; ``reliability`` where truth and probabilities are known. ``errors``: wrong and
    missed pairs that are expected, by ``expected_errors``; zeros where scores are no probabilities.
    """

    histograms: dict[str, list[list[int]]]
    errors: tuple[int, int]


class Counted(NamedTuple):
    """What one range of edges gives: histograms by name, the edges of forests by name, and expected errors."""

    histograms: dict[str, ValueHistogram]
    forests: dict[str, tuple[np.ndarray, ...]]
    errors: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures(Labelled[FigureFacts], RowStep[FigureFacts]):
    """Tables ``sweep_score`` and, where scores are not the cosines, ``sweep_similarity``: source, target and level.

    A table holds a maximum spanning forest of each range's own edges, by level: the place of the highest threshold of
    ``sweep_thresholds`` that the edge passes. Levels ascend within a task's table. ``opinions``: the step that left
    ``settling`` (2, N): two clusterings of the vertices that tell more than scores do; of no vertices if scores tell
    more.
    """

    kind, version, title = "figures", 2, "figures"
    facts = FigureFacts
    clusters: Labels
    score: Scores
    crossing: Crossing
    order: Order | None
    learned: bool
    opinions: Step[Any] | None = None

    def cost(self) -> Cost:
        """Project the edges of a range for each thread."""
        n, k = self.num_rows, self.score.knn.k
        return Cost(
            fixed_bytes=(n * 16 if self.labels else 0) + (n * 12 if self.opinions else 0),
            bytes_per_thread=min(n, READ_ROWS) * (k * 70 + 340),
            bytes_per_row=2 * 9 * 4,
            disk_bytes=n * 2 * 9 * 2,
            seconds=n * k / 8e6,
        )

    def run(self, task: Task, start: int, stop: int) -> FigureFacts:
        """Count the edges of these rows, and reduce them to forests."""
        facts = join_facts(task.all_facts(self.crossing))
        thresholds = sweep_thresholds(facts, learned=self.learned)
        clusters = VertexClusters(task, self.clusters, self.order)
        identities_V = hold(("identities", task.call.folder), lambda: self._identities(task))
        opinions_2V = hold(("opinions", task.call.folder), lambda: self._opinions(task))
        folder, names = task.input(self.score), ("source", "target", *VALUES)

        def count(bounds: tuple[int, int]) -> Counted:
            histograms, forests = self.histograms(facts), dict[str, tuple[np.ndarray, ...]]()
            pieces = list(read_edges(folder, *bounds, names, READ_ROWS // CHUNK_ROWS))
            sources, targets, *values = (np.concatenate(column) for column in zip(*pieces, strict=True))
            own, others = clusters(sources), clusters(targets)
            inside, scored = (own == others) & (own >= 0), is_scored(*values)
            histograms["similarity"].add(values[0], inside)
            histograms["score"].add(values[1][scored], inside[scored])
            if "reliability" in histograms and identities_V is not None:
                known = (identities_V[sources] >= 0) & (identities_V[targets] >= 0) & scored
                same = identities_V[sources[known]] == identities_V[targets[known]]
                histograms["reliability"].add(values[1][known], same)
            errors = (0, 0)
            if self.learned:
                a, b = sources[scored], targets[scored]
                votes = None if opinions_2V is None else (opinions_2V[:, a] == opinions_2V[:, b]).sum(axis=0)
                errors = expected_errors(values[1][scored], inside[scored], votes)
            for name, levels_T in thresholds.items():
                level = level_of(values[VALUES.index(name)], levels_T)
                kept = level < len(levels_T)
                weights = -level[kept].astype(np.float32)
                a, b, weights = block_forest(*bounds, sources[kept], targets[kept], weights)
                forests[name] = a, b, (-weights).astype(np.uint8)
            return Counted(histograms, forests, errors)

        found = map_tiles(count, tile_bounds(start, stop, READ_ROWS), task.threads)
        for name in thresholds:
            columns = [np.concatenate(column) for column in zip(*(each.forests[name] for each in found), strict=True)]
            order = np.argsort(columns[-1], kind="stable")
            columns = [column[order] for column in columns]
            task.write_table(f"sweep_{name}", dict(zip(("source", "target", "level"), columns, strict=True)))
        totals = self.histograms(facts)
        for name, total in totals.items():
            for each in found:
                total.merge(each.histograms[name].counts)
        wrong, missed = (sum(each.errors[kind] for each in found) for kind in (0, 1))
        return FigureFacts({name: total.counts for name, total in totals.items()}, (wrong, missed))

    def histograms(self, facts: CrossingFacts) -> dict[str, ValueHistogram]:
        """Make empty histograms over the ranges of the values."""
        made = {name: ValueHistogram(*value_range(facts, name)) for name in VALUES}
        return made | ({"reliability": ValueHistogram(0.0, 1.0)} if self.labels and self.learned else {})

    def _opinions(self, task: Task) -> np.ndarray | None:
        settling_2V = None if self.opinions is None else np.asarray(task.npy(self.opinions, "settling"))
        return None if settling_2V is None or not settling_2V.size else settling_2V

    def _identities(self, task: Task) -> np.ndarray | None:
        truth_N = self.truth(self.num_rows)
        return None if truth_N is None else by_vertex(task, truth_N, self.order)


def value_range(facts: CrossingFacts, name: str) -> tuple[float, float]:
    """Give the least and highest similarity or score; 0 and 1 if no edge has one."""
    found = getattr(facts, name)
    return (found[0], found[1]) if found else (0.0, 1.0)


def sweep_thresholds(facts: CrossingFacts, *, learned: bool) -> dict[str, list[float]]:
    """List descending float32 thresholds over the range of the scores, and of the similarities where they differ."""
    ranges = {name: value_range(facts, name) for name in VALUES}
    names = ["score"]
    if learned or ranges["score"][0] != ranges["similarity"][0]:  # scores that are not the graph's cosines
        names.append("similarity")
    thresholds = {}
    for name in names:
        low, high = ranges[name]
        steps = np.linspace(high, low, SWEEP_STEPS + 1)[1:] if high > low else np.array([low])
        thresholds[name] = [float(value) for value in np.unique(np.round(steps, 3).astype(np.float32))[::-1]]
    return thresholds


class SweptEdges:
    """The forests of a sweep, from which the edges of each level are read."""

    def __init__(self, task: Task, figures: Figures, name: str) -> None:
        self._parts = [
            read_columns(path, ("source", "target", "level"))
            for path in table_parts(task.input(figures), f"sweep_{name}")
        ]

    def at(self, level: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give the edges of a level, as blocks of both ends."""
        for sources, targets, levels in self._parts:
            low, high = np.searchsorted(levels, np.array([level, level + 1], levels.dtype))
            yield sources[low:high], targets[low:high]
