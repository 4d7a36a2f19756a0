"""Scratch stages: their outputs are deleted once every stage that reads them is done.

This saves disk. The records stay, with a mark beside them, so that the stage counts as done. It runs again only if a
stage that reads it has to run again, because a setting changed or an output is damaged.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import DataError, EngineError
from engine.runs.plan import Plan
from engine.stages import Stage
from engine.storage import manifest
from engine.storage.cache import drop_outputs
from engine.storage.context import is_committed, release_held, stage_facts
from engine.storage.owned import MARK, RESUME, read_owned
from engine.storage.places import Place

MARK_FILE = "consumed.json"


def is_enough(folder: Path) -> bool:
    """Tell whether a finished check found its subject good enough."""
    enough = stage_facts(folder)[0].get("enough")
    if not isinstance(enough, bool):
        raise DataError(f"{folder}: its record does not say whether it is enough, got {enough!r}; {RESUME}")
    return enough


def is_finished(folder: Path, stage: Stage) -> bool:
    """Tell whether all rows of a stage were committed, whether or not its outputs are still there."""
    return is_committed(folder, stage.digest, stage.num_rows)


def is_consumed(folder: Path) -> bool:
    """Tell whether a finished stage's outputs were deleted because no later stage reads them.

    A damaged mark does not count. The outputs are then missing, and are made again if a stage needs them.
    """
    try:
        read_owned(folder / MARK_FILE, MARK)
    except EngineError:
        return False
    return True


def not_needed(stages: Sequence[Stage], root: Path) -> set[str]:
    """Return the names of the planned stages that a finished check has made unnecessary."""
    named, names = {stage.name: stage for stage in stages}, set[str]()
    for stage in stages:
        if stage.unless:
            check = named[stage.unless]
            if check.name in names or (is_finished(root / check.folder, check) and is_enough(root / check.folder)):
                names.add(stage.name)
    return names


def stages_to_run(plan: Plan, root: Path) -> set[str]:
    """Return the names of the stages that are needed but are not finished or lost their outputs.

    A stage that a finished check made unnecessary is among them if the outputs that replace its own are needed.
    """
    skipped = not_needed(plan.stages, root)
    wanted: set[str] = set()
    for stage in reversed(plan.stages):
        folder, in_use = root / stage.folder, any(later.name in wanted for later in _readers(plan.stages, stage.name))
        if stage.name in skipped:
            needed = bool(stage.instead) and in_use
        else:
            there = is_finished(folder, stage) and not is_consumed(folder)
            needed = not there and (in_use or not stage.scratch)
        if needed:
            wanted.add(stage.name)
    return wanted


def discard_consumed(plan: Plan, done: int, folders: Mapping[str, Path], place: Place) -> list[str]:
    """Delete the outputs of scratch stages that no stage after the first ``done`` reads; return the stages' names."""
    dropped = []
    for stage in plan.stages[:done]:
        folder = folders.get(stage.name)
        if not stage.scratch or folder is None or folder.name != stage.folder or is_consumed(folder):
            continue
        later = {folders.get(name) for after in plan.stages[done:] for name in (*after.inputs.values(), after.instead)}
        if folder not in later:
            manifest.remove_place(folder / MARK_FILE)
            manifest.write_owned(folder / MARK_FILE, MARK, {})
            place.publish(folder / MARK_FILE)
            release_held()  # because a mapped file would keep its space on disk
            drop_outputs(folder)
            place.withdraw(folder)
            dropped.append(stage.name)
    return dropped


def restore(folder: Path, place: Place) -> None:
    """Prepare a stage whose outputs were deleted to run again."""
    if is_consumed(folder):
        shutil.rmtree(folder / "records", ignore_errors=True)
        (folder / "records").mkdir()
        place.withdraw(folder / "records")
        (folder / MARK_FILE).unlink()
        place.withdraw(folder / MARK_FILE)


def _readers(stages: Sequence[Stage], name: str) -> list[Stage]:
    return [stage for stage in stages if name in stage.inputs.values() or name == stage.instead]
