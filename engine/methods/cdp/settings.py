"""Settings of CDP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from engine.sections import Section


class CdpSettings(Section):
    """CDP's committee."""

    name: ClassVar[str] = "cdp"
    committee: tuple[str, ...] = Field((), description="other vectors of the same rows, in any format of a source")
    accept: int = Field(1, ge=0, description="vote: members that must list a pair too; at most all of them")

    @field_validator("committee", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("committee")
    @classmethod
    def _absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Path(path).absolute()) for path in value)


CDP_PRESETS: dict[str, dict[str, Any]] = {"original": {"knn": {"k": 15}, "partition": {"max_size": 600, "step": 0.05}}}


MEDIATOR_PRESETS: dict[str, dict[str, Any]] = {
    "original": {
        "knn": {"k": 15},
        "train": {"optimizer": "sgd", "learning_rate": 1e-3, "edges_per_step": 1_024},
        "partition": {"method": "propagation", "max_size": 600, "step": 0.05},
    }
}
