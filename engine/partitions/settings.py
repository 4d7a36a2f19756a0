"""Settings of the partitions."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.sections import Section

PartitionName = Literal["components", "propagation", "density_peaks", "map_equation"]


class PartitionSettings(Section):
    """How scored edges become clusters. ``None`` takes the operating point stored with the model."""

    name: ClassVar[str] = "partition"
    method: Literal["auto"] | PartitionName = Field(
        "auto",
        description="components: score and intimacy pruning, then union-find; propagation: size-capped; "
        "density_peaks: each row joins its best neighbour among denser ones; map_equation: modules in which a walk "
        "along the scored edges stays longest",
    )
    min_score: float | None = Field(None, ge=-1, le=1, description="tau 1: edges of lower score are pruned")
    min_intimacy: Annotated[float, Field(ge=0, le=1)] | Literal["adaptive"] | None = Field(
        None,
        description="tau 2: edges of lower node intimacy are pruned; adaptive: 0.65 to 0.77, by their ends' degrees",
    )
    max_size: int | None = Field(None, ge=1, description="propagation: larger components retry at a higher threshold")
    step: float = Field(0.05, ge=0.001, lt=1, description="propagation: th <- th + (1 - th) * step")
    weight: Literal["auto", "score", "log_odds", "exponential"] = Field(
        "auto",
        description="map_equation: an edge's weight: its score s, ln(s / (1 - s)), exp((s - 1) / bandwidth); "
        "auto: log_odds for learned scores, exponential for cosines",
    )
    precision_bias: float = Field(
        0.0,
        ge=-20,
        le=20,
        description="how many times the odds that an edge is right must double before it counts as "
        "it does at 0: above 0 fewer wrong merges, below 0 fewer splits",
    )
    curve_rows: int = Field(
        50_000,
        ge=0,
        description="the report shows what other precision biases would give up to this many rows; that "
        "takes the partition nine times over",
    )
    union_find_ranges: int = Field(
        0,
        ge=0,
        description="components: ranges of vertices whose parents are held apart, with ray by a process each; "
        "1: all are held together; 0: a range for every 268,435,456 vertices; labels are the same bytes for any number",
    )
    module_ranges: int = Field(
        0,
        ge=0,
        description="map_equation: ranges of vertices that are searched apart, with ray by a process each; 1: all are "
        "searched together; 0: a range for every 67,108,864 vertices, up to the number of workers; labels are the same "
        "bytes for any number",
    )
    bandwidth: float = Field(0.1, gt=0, description="map_equation: score that makes an exponential weight e times less")
