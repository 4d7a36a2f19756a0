"""The content of a report: dataclasses of numbers and text, with a JSON form by ``dataclasses.asdict``."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.evaluation.galleries import SizeBin
from engine.evaluation.sweep import SweepRow


@dataclass(frozen=True)
class StageRow:
    """Time, memory and rate of one stage; ``rate`` in ``unit`` per second."""

    name: str
    num_tasks: int
    seconds: float
    peak_memory_bytes: int | None = None
    rate: float | None = None
    unit: str = "rows"


@dataclass(frozen=True)
class ValueHistogram:
    """Numbers of edges, or of rows, by value: ``bin_edges`` ascending, one longer than ``kept`` and ``pruned``.

    ``kept``: edges inside clusters, or all, with ``pruned`` empty. ``pruned``: edges between clusters. ``threshold``:
    the operating point, drawn as a line. ``left_out``: number of edges without a value.
    """

    bin_edges: list[float]
    kept: list[int]
    pruned: list[int] = field(default_factory=list)
    threshold: float | None = None
    left_out: int = 0


@dataclass(frozen=True)
class Reliability:
    """The share of right edges by score: ``scores`` ascending, ``shares`` within one identity, counts ``edges``."""

    scores: list[float]
    shares: list[float]
    edges: list[int]


@dataclass(frozen=True)
class RecallEstimate:
    """The share of exact search's neighbours that the KNN graph holds, on ``num_samples`` rows.

    ``recall_above_floor``: over true neighbours of similarity >= ``floor`` only, because clustering can use no others.
    """

    k: int
    recall: float
    num_samples: int
    floor: float | None = None
    recall_above_floor: float | None = None


@dataclass(frozen=True)
class MetricsRow:
    """Scores of one labelling, with the keys of ``Scores.as_dict``; ``emphasis`` marks this run's result."""

    name: str
    scores: dict[str, float]
    emphasis: bool = False
    remark: str = ""


@dataclass(frozen=True)
class GalleryItem:
    """A row of a cluster: text, or a picture (base64 data URI, PNG/JPEG/GIF/WebP) with the text as its caption."""

    text: str = ""
    image: str | None = None


@dataclass(frozen=True)
class GalleryCluster:
    """A cluster with those of its ``rows`` and ``items`` that the report shows; rows are named by numbers or ids.

    ``weakest_score``: the score at which the cluster would fall apart. ``marked_rows``: rows to point out, such as the
    ends of a bridge. ``beside``: a cluster of the same identity, maybe, with ``affinity`` between both.
    """

    label: int
    size: int
    rows: list[int | str]
    items: list[GalleryItem]
    cohesion: float | None = None
    weakest_score: float | None = None
    marked_rows: list[int | str] = field(default_factory=list)
    confidence: float | None = None
    beside: GalleryCluster | None = None
    affinity: float | None = None


@dataclass(frozen=True)
class Gallery:
    """Clusters chosen for one reason; ``pixelated`` keeps the pixels of tiny pictures square."""

    title: str
    explanation: str
    clusters: list[GalleryCluster]
    pixelated: bool = False


@dataclass(frozen=True)
class ClusterList:
    """All clusters of two rows and more, packed by ``engine.report.cluster_list``."""

    count: int
    packed: str


@dataclass(frozen=True)
class Change:
    """What an update did to clusters: how many met each event, by ``engine.clustering.matching.EVENTS``.

    ``moves``: the mergers and splits of most rows, as (event, cluster, other, rows).
    """

    update: int
    events: dict[str, int]
    moves: list[tuple[str, int, int, int]]


@dataclass(frozen=True)
class MapPoint:
    """A cluster on the map: its place in the unit square, and the text of one of its rows."""

    label: int
    size: int
    x: float
    y: float
    weakest_score: float | None = None
    text: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows; the page leaves out empty fields and ``None``."""

    title: str
    method: str
    source: str
    num_rows: int
    num_dimensions: int
    num_clusters: int
    num_singletons: int
    largest: int
    probabilities: bool = False  # whether scores are
    score_name: str = "score"  # name of the numbers in galleries
    model: str | None = None
    operating_point: str | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    review: str | None = None  # the command that serves a review of the run
    size_bins: list[SizeBin] = field(default_factory=list)
    metrics: list[MetricsRow] = field(default_factory=list)
    sweep: list[SweepRow] = field(default_factory=list)
    chosen_threshold: float | None = None
    curve: list[SweepRow] = field(default_factory=list)  # by precision bias
    precision_bias: float = 0.0
    similarities: ValueHistogram | None = None
    scores: ValueHistogram | None = None
    expected_errors: tuple[float, float] | None = None  # wrong and missed pairs of neighbours
    recall: RecallEstimate | None = None
    confidence: ValueHistogram | None = None
    reliability: Reliability | None = None
    galleries: list[Gallery] = field(default_factory=list)
    clusters: ClusterList | None = None
    map: list[MapPoint] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)  # by updates, the last one first
    stages: list[StageRow] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
