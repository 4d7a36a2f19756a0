"""Settings of the structural method's trees."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.sections import Section


class TreesSettings(Section):
    """The structural method's boosted trees."""

    name: ClassVar[str] = "trees"
    num_trees: int = Field(200, ge=1, description="trees of each of the three fits at most")
    levels: int = Field(6, ge=1, le=8, description="splits from the root to a leaf")
    rate: float = Field(0.1, gt=0, le=1, description="step of each tree")
    l2: float = Field(2.0, ge=0, description="weight added to each leaf's curvature")
    min_weight: float = Field(30.0, ge=0, description="edges in doubt that a leaf must hold")
    input_share: float = Field(0.6, gt=0, le=1, description="share of the inputs offered to each tree")
    patience: int = Field(25, ge=1, description="trees without a lower held-out loss before a fit stops")
    max_edges: int = Field(400_000, ge=1_000, description="edges of each fit at most")
    identity_balance: float = Field(
        0.5, ge=0, le=1, description="0: every edge is drawn alike; 1: weighed by the sizes of both identities"
    )
    holdout: float = Field(0.2, gt=0, lt=1, description="share of identities held out for stopping and thresholds")
