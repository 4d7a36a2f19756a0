"""Which planned stages of a run are needed, and whether they were committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.runs import scratch
from engine.stages import Cost, Stage


def all_committed(root: Path, held: dict[str, Any]) -> bool:
    """Tell whether every stage that is needed was committed."""
    unneeded = not_needed(root, held)
    stages = [planned_stage(stage) for stage in held["plan"]["stages"] if stage["name"] not in unneeded]
    return all(stage.scratch or scratch.is_finished(root / stage.folder, stage) for stage in stages)


def not_needed(root: Path, held: dict[str, Any]) -> set[str]:
    """Name the planned stages that a finished check has made unnecessary."""
    return scratch.not_needed([planned_stage(stage) for stage in held["plan"]["stages"]], root)


def planned_stage(stage: dict[str, Any]) -> Stage:
    """Read a stage from the entry of a run's manifest."""
    return Stage(**{**stage, "cost": Cost(**stage["cost"])})
