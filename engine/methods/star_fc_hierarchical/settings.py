"""Settings of the hierarchical STAR-FC."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from engine.methods.star_fc.settings import PUBLISHED_NETWORK, PUBLISHED_TRAINING, StarFcSettings
from engine.sections import Share


class HierarchySettings(StarFcSettings):
    """The network of ``star_fc_hierarchical``."""

    name: ClassVar[str] = "hierarchy"
    scales: tuple[Share, Share, Share, Share] = Field(
        (2 / 3, 3 / 4, 5 / 6, 11 / 12),
        description="smaller neighbourhoods, as shares of knn.k: two mixed into one, one alone, and one mixed with "
        "all of knn.k; published 80, 90, 100 and 110 of 120",
    )
    entropy_weight: float = Field(
        0.1, ge=0, description="lambda: weight of the bits by which the chosen scales fall short of an even choice"
    )

    @field_validator("scales")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(value):
            raise ValueError("expected ascending shares")
        return value

    @field_validator("hidden")
    @classmethod
    def _of_four_heads(cls, value: int) -> int:
        if value % 4:
            raise ValueError("expected a multiple of 4, as the scales attend to each other with four heads")
        return value


PRESETS: dict[str, dict[str, Any]] = {
    "original": {
        **PUBLISHED_TRAINING,
        "knn": {"k": 120},
        "sampling": {"num_seeds": 1, "num_nearest": 1_149, "far_share": 0},
        "hierarchy": PUBLISHED_NETWORK,
        "partition": {"method": "components", "min_score": 0.85, "min_intimacy": "adaptive"},
    }
}
