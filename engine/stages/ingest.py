"""Stage ingest: normalised features, and the ids and items of the rows, from the source."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.ingest import read_normalised
from engine.plan import CHUNK_ROWS, Cost
from engine.storage.context import TaskContext, hold, stage_facts, table_parts
from engine.storage.formats import open_source
from engine.storage.tables import read_joined

VERSION = 1


def cost(num_rows: int, dim: int, item_bytes: int, dtype: str) -> Cost:
    stored = 2 if dtype == "float16" else 4
    return Cost(
        fixed_bytes=4 * CHUNK_ROWS * dim * 8,
        bytes_per_row=dim * (2 * item_bytes + 4 + stored),
        disk_bytes=num_rows * dim * stored,
        seconds=num_rows * dim / 4e7,
    )


def run(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``features`` (N, D), unit rows, zero vectors as zeros; and ``rows`` with ids and items where there are."""
    spec = dict(task.where["spec"])
    source = hold(("source", repr(sorted(spec.items()))), lambda: open_source(**spec))
    features_ND, zeros = read_normalised(source, start, stop, task.params["zero_vectors"], task.threads)
    task.write_rows("features", features_ND, task.params["dtype"])
    columns: dict[str, Any] = {}
    if (ids := source.ids()) is not None:
        columns["id"] = ids[start:stop]
    if (items := source.items(start, stop)) is not None:
        columns["item"] = items
    if columns:
        task.write_table("rows", columns)
    return {"zero_rows": zeros.tolist()}


def zero_rows(folder: Any) -> np.ndarray:
    """Row numbers of all zero vectors of an ingested source, ascending, int64."""
    return np.array([row for facts in stage_facts(folder) for row in facts["zero_rows"]], dtype=np.int64)


def usable_rows(folder: Any, num_rows: int) -> np.ndarray | None:
    """Boolean (N,) of rows that have a direction, or ``None`` if all have."""
    zeros = zero_rows(folder)
    if not len(zeros):
        return None
    usable = np.ones(num_rows, dtype=np.bool_)
    usable[zeros] = False
    return usable


def row_column(folder: Any, column: str) -> Any:
    """The whole ``id`` or ``item`` column of an ingested source as an Arrow chunked array, or ``None``."""
    return read_joined(table_parts(folder, "rows"), column)
