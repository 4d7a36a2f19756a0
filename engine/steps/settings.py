"""Settings of the steps before clustering: ingestion, the KNN graph and which edges are scored."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from engine.sections import Section


class IngestSettings(Section):
    """Reading and normalising the source vectors."""

    name: ClassVar[str] = "ingest"
    dtype: Literal["float16", "float32"] = Field("float16", description="stored type of the unit vectors")
    zero_vectors: Literal["error", "drop", "singleton"] = Field(
        "error", description="rows of norm 0: refuse, leave out (label -1), or give each a cluster of its own"
    )
    bad_rows: Literal["error", "drop"] = Field(
        "error", description="rows with NaN, infinity or a missing value: refuse, or leave out (label -1)"
    )


class KnnSettings(Section):
    """The global KNN graph."""

    name: ClassVar[str] = "knn"
    k: int = Field(80, ge=1, le=1024, description="neighbours per vertex, itself not counted")
    mode: Literal["auto", "exact", "partition", "ivf"] = Field(
        "auto", description="auto: exact up to exact_rows, then partition"
    )
    exact_rows: int = Field(50_000, ge=0, description="largest N that auto searches exactly")
    recall: float = Field(
        0.99, gt=0, le=1, description="partition: passes are added until this share of neighbours above 0.5 is found"
    )
    max_passes: int = Field(0, ge=0, le=9, description="partition: passes at most; 0: 4, and 3 beyond 4,194,304 rows")
    num_cells: int = Field(
        0, ge=0, description="cells; 0: partition about N / 64, at most 1,048,576; ivf about 1.3 sqrt(N)"
    )
    num_probes: int = Field(0, ge=0, description="nearest cells searched per query; 0: partition 4, ivf 32")
    train_rows_per_cell: int = Field(
        0, ge=0, description="rows sampled per cell to train the centroids; 0: partition 8, ivf 64"
    )
    recall_samples: int = Field(
        1_000, ge=0, description="rows compared against exact search; 0: no estimate, and all passes are made"
    )


class ScoreSettings(Section):
    """Which edges are scored.

    Structural inputs come from the whole graph, so an edge's score does not depend on which other edges are scored.
    Node intimacy does depend on it, because it counts neighbours among edges that are scored and survive. A floor below
    which hardly any edge survives leaves node intimacy unchanged. A cap lowers it (measured at part1: a cap of 60
    instead of 80 edges costs 0.6 of pairwise F).
    """

    name: ClassVar[str] = "score"
    min_similarity: float | None = Field(
        None, ge=-1, le=1, description="edges below this cosine are never scored; None: what the model stores, else 0"
    )
    max_edges_per_vertex: int = Field(
        0, ge=0, description="M: an edge is scored if it is among the nearest M of either end; 0 = all"
    )
