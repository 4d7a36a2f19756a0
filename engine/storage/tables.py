"""Arrow IPC tables for what has no fixed number of rows per vertex: edges, ids, items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.storage.manifest import OutputFile, write_atomic


def write_table(path: Path, columns: Mapping[str, Any]) -> OutputFile:
    """Write equally long columns (arrays or lists) as one uncompressed Arrow IPC file, atomically."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})

    def write(stream: Any) -> None:
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)

    return write_atomic(path, write)


def read_table(path: Path) -> pa.Table:
    """Map an Arrow IPC file; numeric columns are read without a copy."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def read_columns(path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Read numeric columns as arrays, without a copy where the table has one batch."""
    table = read_table(path)
    return tuple(table.column(name).to_numpy() for name in names)


def read_joined(paths: Sequence[Path], name: str) -> pa.ChunkedArray | None:
    """One column of several tables as one Arrow chunked array; ``None`` if they have no such column."""
    parts = [read_table(path) for path in paths]
    if not parts or name not in parts[0].column_names:
        return None
    return pa.chunked_array([chunk for part in parts for chunk in part.column(name).chunks])
