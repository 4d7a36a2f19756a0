"""Settings of GCN-D and GCN-S."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from engine.sections import Cosine, Section, TwoOrMore, Width


class GcnDSettings(Section):
    """GCN-D's and GCN-S's cluster proposals and networks."""

    name: ClassVar[str] = "gcn_d"
    thresholds: tuple[Cosine, ...] = Field(
        (0.35, 0.45, 0.55, 0.65, 0.75), min_length=1, description="least similarities of super-vertices"
    )
    max_size: int = Field(300, ge=2, description="vertices of a proposal at most")
    min_size: int = Field(2, ge=2, description="vertices of a proposal at least; published 3")
    unions: tuple[tuple[TwoOrMore, TwoOrMore], ...] = Field(
        (),
        description="pairs (k, most): super-vertices that are among each other's k nearest, itself counted, are "
        "joined, most of them at most, and each union is a proposal too",
    )
    union_thresholds: tuple[Cosine, ...] = Field(
        (), description="least similarities of the super-vertices that are joined; none: those of thresholds"
    )
    union_similarity: float = Field(0.4, ge=-1, le=1, description="least cosine of two means that are joined")
    union_max_size: int = Field(500, ge=2, description="vertices of a union at most")
    widths: tuple[Width, ...] = Field((512, 64), min_length=1, description="widths of the convolutions")
    proposals_per_step: int = Field(32, ge=1, description="proposals of one minibatch")
    num_seeds: int = Field(3, ge=1, description="gcn_s: seeds tried in each proposal")
    least_iop: float = Field(0.1, ge=0, le=1, description="gcn_s: proposals of predicted IoP from here on are cut")
    most_iop: float = Field(0.9, ge=0, le=1, description="gcn_s: and up to here")


_FIVE: dict[str, Any] = {"thresholds": [0.55, 0.6, 0.65, 0.7, 0.75], "min_size": 3}
_UNITED: dict[str, Any] = {"thresholds": [0.6, 0.7], "min_size": 3, "union_thresholds": [0.6, 0.7, 0.75]}
_TWENTY = [[2, 8], [2, 12], [2, 16], [3, 5], [3, 10], [4, 4]]

PRESETS: dict[str, dict[str, Any]] = {
    "2_proposals": {"gcn_d": {"thresholds": [0.7, 0.75], "min_size": 3}},
    "5_proposals": {"gcn_d": _FIVE},
    "8_proposals": {"gcn_d": {**_UNITED, "unions": [[2, 8], [3, 5]]}},
    "20_proposals": {"gcn_d": {**_UNITED, "unions": _TWENTY}},
    "ms1m": {"gcn_d": _FIVE, "train": {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4}},
}
