"""Predicted labels, or those of a run, scored against identities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.versions import finished_updates
from engine.commands.opening import open_collection
from engine.commands.request import labels_of_any
from engine.commands.run_folder import run_labels
from engine.errors import DataError
from engine.evaluation.metrics import evaluate_labels
from engine.storage.formats.in_memory import is_place
from engine.storage.remote import is_url


def evaluate(predicted: Any, labels: Any, *, labels_column: str | None = None) -> dict[str, float]:
    """Score predicted labels against identities: pairwise, BCubed, NMI, ARI (fractions) and counts.

    Either is a path, or N numbers or names as an array, list or column (see ``as_labels``). A predicted -1 counts as a
    cluster of its own; rows of identity -1 are not scored.
    """
    truth, found = labels_of_any(labels, column=labels_column), labels_of_any(predicted, "predicted")
    return _scored(found, truth, labels, f"label of {predicted}" if is_place(predicted) else "predicted label")


def evaluate_run(run: str | Path, labels: Any, *, labels_column: str | None = None, level: int = 1) -> dict[str, float]:
    """Score a run, or the last version of its collection, as ``evaluate`` does; ``level`` as in ``run_labels``."""
    truth, found = labels_of_any(labels, column=labels_column), run_labels(run, level)
    return _scored(found, truth, labels, f"row of {run}{_since(run)}")


def _scored(found: np.ndarray, truth: np.ndarray, labels: Any, each: str) -> dict[str, float]:
    if len(truth) != len(found):
        name = str(labels) if is_place(labels) else "labels"
        raise DataError(f"{name}: {len(truth):,} identities; expected {len(found):,}, one for each {each}")
    return evaluate_labels(found, truth).as_dict()


def _since(run: str | Path) -> str:
    """Say which rows updates have added to a run, in which order, and how many they have removed."""
    if is_url(run) or not finished_updates(Path(run)):
        return ""
    _, version = open_collection(run)
    since, removed = version.since(), version.kept.removed
    parts = [f"{since.full_rows:,} of the full run"]
    if since.added:
        parts.append(f"then {since.added:,} that updates added, in the order in which they came")
    if removed:
        parts.append(f"without the {removed:,} removed")
    return f" ({', '.join(parts)})"
