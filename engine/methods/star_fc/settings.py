"""Settings of STAR-FC."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.sections import Section


class StarFcSettings(Section):
    """The STAR-FC network."""

    name: ClassVar[str] = "model"
    head: Literal["interaction", "concat"] = Field("interaction", description="edge head; concat = published")
    hidden: int = Field(128, ge=1, description="width of the graph convolution's output")
    code: int = Field(64, ge=1, description="interaction head: width each vertex is projected to")
    head_hidden: int = Field(128, ge=1, description="width of the edge head's hidden layers")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout in the edge head while training")


PUBLISHED_TRAINING: dict[str, Any] = {
    "train": {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "weight_decay": 1e-5,
        "max_steps": 2000,
        "edges_per_step": 8192,
    },
    "metric": {"learn": "none"},
}
PUBLISHED_NETWORK = {"head": "concat", "hidden": 512, "head_hidden": 512}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "original": {
        **PUBLISHED_TRAINING,
        "model": PUBLISHED_NETWORK,
        "partition": {"method": "components", "min_score": 0.70, "min_intimacy": 0.72},
    },
}
