"""The types of two files that stages write and the report reads: ``analysis.json`` and ``curve.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.evaluation.galleries import SizeBin
from engine.evaluation.sweep import SweepRow
from engine.storage.owned import RESUME, Count, FileKind, Text

GalleryName = Literal["likely_merges", "likely_splits", "least_certain", "largest"]


class Shown(BaseModel):
    """Base of what the report shows; a missing number is NaN."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PointFile(BaseModel):
    """The operating point of a run; further fields that a partition adds are for people to read."""

    model_config = ConfigDict(extra="allow", strict=True)

    partition: Text
    min_score: float | None = None
    unbiased_min_score: float = 0.0
    min_intimacy: float | Literal["adaptive"] | None = None
    max_size: Count = 0
    weight: Text = ""
    reason: Text = ""


class HistogramFile(Shown):
    """Edges by value, inside clusters and between them."""

    bin_edges: list[float]
    kept: list[Count]
    pruned: list[Count]


class ConfidenceFile(Shown):
    """Rows by confidence."""

    bin_edges: list[float]
    rows: list[Count]


class ClusterFile(Shown):
    """A cluster to look at; of a likely merge also the other cluster."""

    label: Count
    size: Count
    rows: list[Count]
    marked: list[Count]
    items: list[str]
    confidence: float | None
    cohesion: float | None
    weakest_score: float | None
    beside: ClusterFile | None = None
    affinity: float | None = None


class PlainFile(Shown):
    """The best plain thresholding."""

    threshold: float
    metrics: dict[Text, float]


class AnalysisFile(Shown):
    """``analysis.json``."""

    sizes: list[SizeBin]
    num_clusters: Count
    num_singletons: Count
    largest: Count
    num_dropped: Count
    point: PointFile
    histograms: dict[Literal["similarity", "score"], HistogramFile]
    unscored_edges: Count
    sweeps: dict[Literal["similarity", "score"], Annotated[list[SweepRow], Field(min_length=1)]]
    confidence: ConfidenceFile
    galleries: dict[GalleryName, list[ClusterFile]]
    expected_errors: tuple[float, float] | None = None
    reliability: HistogramFile | None = None
    metrics: dict[Text, Any] | None = None
    plain: PlainFile | None = None


class CurveFile(Shown):
    """``curve.json``."""

    rows: list[SweepRow]


ANALYSIS = FileKind(AnalysisFile, RESUME, sealed=False)
CURVE = FileKind(CurveFile, RESUME, sealed=False)
