"""Settings of the baselines."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from engine.sections import Section


class BaselineSettings(Section):
    """Parameters of the baselines; ``None`` takes those that training chose."""

    name: ClassVar[str] = "baseline"
    num_clusters: int | None = Field(None, ge=1, description="k-means and spectral clustering: clusters to make")
    distance: float | None = Field(
        None,
        gt=0,
        description="1 - cosine up to which rows are joined, density is counted or a tree is cut; "
        "rank_order: the rank distance",
    )
    min_rows: int | None = Field(None, ge=1, description="dbscan: rows of a dense place; hdbscan: of a cluster")
    selection: Literal["eom", "leaf"] | None = Field(None, description="hdbscan: excess of mass, or leaves")
