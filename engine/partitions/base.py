"""The interface of a partition, which turns scored edges into clusters.

A partition has one module: the settings that it reads, its words for the report, the step that clusters a run's edges
streamed from disk, the function that clusters edges in memory, and the search for its settings on held-out identities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from engine.clustering.evidence import biased_score
from engine.partitions.settings import PartitionName, PartitionSettings
from engine.runs.step import Facts, Step, Task
from engine.steps.crossing import Crossing
from engine.steps.edges import Scores
from engine.steps.knn import Knn
from engine.steps.point import ChosenPoint
from engine.storage.manifest import read_json

Array = np.ndarray[Any, Any]
Point = dict[str, Any]
Find = Callable[[float], Array]  # the roots (N,) of the clusters at a precision bias


class Edges(NamedTuple):
    """Scored edges in memory: ends int32 and float32 scores, (E,) each."""

    sources: Array
    targets: Array
    scores: Array


class OperatingPoint(BaseModel):
    """The thresholds of a partition that training chose; what they scored on held-out rows stands beside them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    min_score: Annotated[float, Field(ge=-1.01, le=1.01)]  # cosines of rounded vectors pass 1 by a little
    min_intimacy: Annotated[float, Field(ge=0, le=1)] | Literal["adaptive"] | None = None
    max_size: Annotated[int, Field(ge=1)] | None = None


def unbiased_score(point: Point) -> float:
    """The least score of an operating point without its precision bias."""
    return float(point["unbiased_min_score"] if "unbiased_min_score" in point else point["min_score"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Clustered(Step[Facts]):
    """A step that clusters. It writes ``roots`` (N,), the lowest vertex of each vertex's cluster; facts: the point."""

    title = "roots"


@dataclass(frozen=True, kw_only=True, eq=False)
class Thresholds(Step[Facts]):
    """A step that reads an operating point: the thresholds ``given``, and for the others those that ``chosen`` found.

    ``precision_bias`` moves the least score; ``learned`` says that scores are probabilities. What else depends on the
    least score, such as densities and node intimacy, is of the unbiased one, so that a bias is monotonic.
    """

    chosen: Step[Facts] | None
    given: Mapping[str, Any]
    precision_bias: float
    learned: bool

    def operating_point(self, task: Task) -> Point:
        """Read the thresholds to use."""
        found = read_json(task.input(self.chosen) / "point.json") if self.chosen is not None else {}
        point = {**found, **{name: value for name, value in self.given.items() if value is not None}}
        if self.precision_bias:
            point["unbiased_min_score"] = point["min_score"]
            point["min_score"] = biased_score(point["min_score"], self.precision_bias, self.learned)
        return point


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeThresholds(Thresholds):
    """A step that compares edges with an operating point."""

    score: Scores

    @property
    def num_vertices(self) -> int:
        return self.score.num_rows


class Trial(NamedTuple):
    """Input of a search for settings: training edges, sizes of identities, and ``measure``, which scores roots (N,)."""

    edges: Edges
    num_vertices: int
    sizes: Array
    measure: Callable[[Array], dict[str, float]]
    step: float
    seed: int
    threads: int


@dataclass(frozen=True)
class Work:
    """The steps and settings that a partition works on. ``stored``: the model's or the method's operating point."""

    score: Scores
    crossing: Crossing
    knn: Knn
    config: PartitionSettings
    stored: OperatingPoint | None
    learned: bool
    has_model: bool
    seed: int
    num_edges: int  # edges of a row, at most, for projections


class Partition:
    """One way to cluster scored edges.

    ``words`` name it in a report. ``thresholds``: those of its settings that an operating point has. ``takes_step``:
    whether it raises the threshold by ``partition.step``. ``head_start``: mean F added in the comparison with other
    partitions, because settings chosen on held-out identities flatter the partition less than others.
    """

    name: PartitionName
    words: str
    thresholds: tuple[str, ...] = ("min_score",)
    takes_step = False
    head_start = 0.0

    def point_words(self, point: Point) -> list[str]:
        """Describe, for a report, the settings of an operating point besides its least score."""
        return []

    def cluster(self, work: Work) -> Clustered:
        """Make the step that clusters a run's edges."""
        raise NotImplementedError

    def find(
        self, edges: Edges, num_vertices: int, point: Point, *, learned: bool, step: float, seed: int, threads: int
    ) -> Find:
        """Give the function that clusters edges in memory at a precision bias, with the settings of ``point``.

        A higher bias never joins what a lower one keeps apart (of the map equation: between whole numbers).
        """
        raise NotImplementedError

    def search(self, trial: Trial) -> Point:
        """Find the settings of best mean F on held-out rows; the point also has what ``measure`` gave."""
        raise NotImplementedError

    def chosen(self, work: Work, given: Mapping[str, Any]) -> Step[Facts] | None:
        """Make the step that chooses an operating point from the graph; ``None`` if all thresholds are given."""
        if all(value is not None for value in given.values()):
            return None
        scored = work.score if work.has_model or work.learned else None
        features = None if scored else work.knn.features
        return ChosenPoint.along(work.knn, score=scored, features=features, step=work.config.step)

    def given(self, work: Work) -> Point:
        """Collect the thresholds that are set or, if not set, stored."""
        return {
            name: getattr(work.stored, name, None) if (value := getattr(work.config, name)) is None else value
            for name in self.thresholds
        }
