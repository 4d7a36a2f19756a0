"""Settings of L-GCN."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from engine.sections import Section, Width


class LGcnSettings(Section):
    """L-GCN's network over pivot subgraphs, which ``train`` trains."""

    name: ClassVar[str] = "l_gcn"
    widths: tuple[Width, ...] = Field(
        (256, 256, 128, 128), min_length=1, description="widths of the convolutions; published twice as wide"
    )
    hidden: int = Field(256, ge=1, description="width of the classifier's hidden layer")
    second_hop: int = Field(5, ge=0, description="neighbours of each neighbour that join a pivot's subgraph")
    active: int = Field(5, ge=1, description="members are joined if either lists the other among its first so many")
    pivots_per_step: int = Field(16, ge=1, description="pivots of one minibatch")


PRESETS: dict[str, dict[str, Any]] = {
    "original": {
        "l_gcn": {"widths": [512, 512, 256, 256]},
        "train": {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4},
        "partition": {"method": "propagation", "max_size": 300, "step": 0.6},
    }
}
