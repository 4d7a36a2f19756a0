"""Settings of GCN-V."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from engine.sections import Section


class GcnVSettings(Section):
    """GCN-V's network, which ``train`` trains."""

    name: ClassVar[str] = "gcn_v"
    hidden: int = Field(512, ge=1, description="width of the graph convolution's output")
    vertices_per_step: int = Field(4_096, ge=0, description="vertices of one minibatch; 0 = all, as published")


_FULL_GRAPH: dict[str, Any] = {
    "gcn_v": {"vertices_per_step": 0},
    "train": {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 1e-5,
        "evaluate_every": 500,
        "patience": 160,
        "max_steps": 80_000,
        "milestones": [0.5, 0.8, 0.9],
    },
}
PRESETS: dict[str, dict[str, Any]] = {
    "ms1m": {**_FULL_GRAPH, "partition": {"min_score": 0.65}},
    "deepfashion": {**_FULL_GRAPH, "knn": {"k": 5}, "partition": {"min_score": 0.80}},
}
