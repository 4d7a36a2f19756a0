"""Stage aggregate: Âx, every vertex's vector averaged with its neighbours', which graph convolutions read."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.adjacency import aggregate, symmetric_rows
from engine.plan import Cost
from engine.storage.context import TaskContext

VERSION = 1


def cost(num_rows: int, dim: int, k: int) -> Cost:
    return Cost(
        bytes_per_row=dim * 4 + k * 44, disk_bytes=num_rows * dim * 2, seconds=num_rows * k * dim / 1.5e9,
        seconds_per_task=num_rows * k / 1e9,  # every task scans all rows for those that list its own
    )  # fmt: skip


def run(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write rows of Âx as ``aggregated`` (N, D) float16; of the nearest ``k`` neighbours alone, if that is given."""
    k = task.params.get("k")
    neighbors_NK, similarities_NK = (task.array("knn", name)[:, :k] for name in ("neighbors", "similarities"))
    rows = symmetric_rows(neighbors_NK, similarities_NK, start, stop, threads=task.threads)
    aggregated = aggregate(*rows, task.array("features", "features"), threads=task.threads)
    task.write_rows("aggregated", aggregated, np.float16)
    return {}
