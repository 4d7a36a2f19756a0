"""What benchmarks read of a finished run: its graph's edges, identities by vertex, and what each stage took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.run_folder import stage_folder
from engine.runs.events import read_events
from engine.steps.edges import iterate_edges
from engine.storage.context import read_npy

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]


def vertex_identities(run: Path, identities: np.ndarray) -> np.ndarray:
    """Identities, or anything else by source row, in the run's vertex order."""
    order = stage_folder(run, "order")
    return identities if order is None else identities[read_npy(order, "row_of_vertex")]


def read_edges(run: Path, value: str = "similarity") -> Edges:
    """Sources, targets and cosines, or scores, of a run's graph."""
    folder = stage_folder(run, "score")
    assert folder is not None
    parts = list(iterate_edges(folder, ("source", "target", value)))
    sources, targets, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sources, targets, values


def stage_table(run: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory of each stage, summed over the processes that ran it."""
    stages: dict[str, dict[str, Any]] = {}
    for event in read_events(run):
        if event["event"] == "stage_finished" and event["tasks_run"]:
            row = stages.setdefault(event["stage"], {"stage": event["stage"], "seconds": 0.0, "peak_bytes": 0})
            row["seconds"] = round(row["seconds"] + event["seconds"], 1)
            row["peak_bytes"] = max(row["peak_bytes"], event["peak_bytes"])
    return list(stages.values())
