"""One method of a comparison: trained, run and scored, and its row kept for the next time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.apart import execute_apart
from engine.commands.preparation import describe_work
from engine.commands.reporting import REPORT_FILE as RUN_REPORT
from engine.commands.request import Kind
from engine.commands.resources import Resources
from engine.commands.run_folder import operating_point, run_labels
from engine.comparison.contenders import Contender
from engine.comparison.page import ComparisonRow
from engine.comparison.parts import MADE_AGAIN, Part
from engine.errors import DataError, EngineError, RunBusy
from engine.evaluation.metrics import evaluate_labels
from engine.methods.registry import METHODS
from engine.runs.events import read_events
from engine.storage import manifest
from engine.storage.context import committed_records
from engine.storage.formats.export import write_labels
from engine.storage.owned import Count, FileKind, Sealed, Text, read_owned

POINT = ("partition", "min_score", "min_intimacy", "max_size", "num_clusters", "distance", "min_rows", "selection")


class RowFile(Sealed):
    """A method's row as it was measured; ``key``: the fingerprint of the work."""

    key: Text
    name: Text
    scores: dict[str, float]
    run_seconds: float
    train_seconds: float
    peak_bytes: Count
    point: dict[str, Any]
    missing: Text


ROW = FileKind(RowFile, MADE_AGAIN, version=2)


def measure(
    out: Path,
    each: Contender,
    parts: Mapping[int, Part],
    truth: np.ndarray,
    given: Mapping[str, Any],
    seed: int | None,
    resources: Resources,
    progress: bool,
) -> ComparisonRow:
    """Train the method on the train rows, cluster the test rows, and score them against ``truth``.

    A method that fails gets a row that says why. Raises ``RunBusy`` if another process works on the folder.
    """
    settings, model, spent = each.settings(given, seed), None, 0.0
    try:
        if METHODS[each.method].trains:
            folder, model = out / "training", out / "models" / each.slug
            manifest.remove_place(model)
            request = replace(parts[0].asked(settings), out=str(model))
            execute_apart("training", folder, request, resources, progress=progress)
            spent = _cost(folder)[0]
        folder = out / "run"
        request = replace(parts[1].asked(settings), model=None if model is None else str(model), labels=None)
        execute_apart("run", folder, request, resources, progress=progress)
    except RunBusy:  # is no failure of the method
        raise
    except EngineError as error:
        return ComparisonRow(each.name, missing=str(error))
    found = run_labels(folder)
    seconds, peak_bytes = _cost(folder)
    write_labels(out / "runs" / f"{each.slug}.npy", found, "npy")
    manifest.copy_atomic(folder / RUN_REPORT, out / "runs" / f"{each.slug}.html")
    point = {name: value for name, value in operating_point(folder).items() if name in POINT}
    return ComparisonRow(each.name, evaluate_labels(found, truth).as_dict(), seconds, spent, peak_bytes, point)


def describe_contender(
    each: Contender, parts: Mapping[int, Part], given: Mapping[str, Any], seed: int | None
) -> list[str]:
    """Fingerprint the training and the run, so that a row is measured anew once a new version does them otherwise."""
    settings, found = each.settings(given, seed), []
    kinds: tuple[tuple[Kind, Part], ...] = ("training", parts[0]), ("run", parts[1])
    for kind, part in kinds:
        try:
            if kind == "run" or METHODS[each.method].trains:
                found.append(describe_work(kind, part.asked(settings)))
        except EngineError as error:  # the method cannot take the source, or needs what training will choose
            found.append(str(error))
    return found


def _cost(folder: Path) -> tuple[float, int]:
    """Sum the seconds of all tasks of a finished plan, shared stages included; find the most memory of a stage."""
    held = manifest.read_run(folder)
    digests = {stage["digest"] for stage in held["plan"]["stages"]}
    seconds = sum(
        record.seconds
        for stage in held["plan"]["stages"]
        for record in committed_records(folder / f"{stage['name']}-{stage['digest'][:12]}", stage["digest"])
    )
    peaks = [
        event["peak_bytes"]
        for event in read_events(folder)
        if event["event"] == "stage_finished" and event["digest"] in digests and event["tasks_run"]
    ]
    return round(seconds, 2), max(peaks, default=0)


def keep_row(out: Path, each: Contender, key: str, row: ComparisonRow) -> None:
    """Keep what was measured of the work of fingerprint ``key``."""
    manifest.remove_place(_row_path(out, each))
    manifest.write_owned(_row_path(out, each), ROW, {"key": key, **asdict(row)})


def _row_path(out: Path, each: Contender) -> Path:
    return out / "rows" / f"{each.slug}.json"


def finished_row(out: Path, each: Contender, key: str) -> ComparisonRow | None:
    """Return the row that an earlier comparison kept of the same work; ``None`` if there is none, or it is damaged."""
    try:
        tree = read_owned(_row_path(out, each), ROW)
    except DataError:
        return None
    return ComparisonRow(**tree) if tree.pop("key") == key else None
