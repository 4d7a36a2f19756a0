"""Arrow IPC tables for data without a fixed number of rows per vertex: edges, ids, items."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import DataError
from engine.storage.manifest import OutputFile, write_atomic
from engine.storage.owned import RESUME
from engine.storage.paths import check_file


def write_table(path: Path, columns: Mapping[str, Any]) -> OutputFile:
    """Write equally long columns (arrays or lists) as one uncompressed Arrow IPC file, atomically."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})

    def write(stream: Any) -> None:
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)

    return write_atomic(path, write)


def read_table(path: Path) -> pa.Table:
    """Map an Arrow IPC file; numeric columns are read without a copy. Raises ``DataError`` for another file.

    Lengths are compared with the file. ``read_joined`` checks texts in full, because their offsets lie in the file.
    """
    try:
        with pa.memory_map(os.fsencode(check_file(path))) as source:
            table = pa.ipc.open_file(source).read_all()
            table.validate()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table ({error}); {RESUME}") from None
    return table


def read_columns(path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Read numeric columns as arrays, without a copy if the table has one batch."""
    table = read_table(path)
    for name in names:
        if name not in table.column_names or not pa.types.is_primitive(table.schema.field(name).type):
            raise DataError(f"{path}: expected a column {name} of numbers; {RESUME}")
    return tuple(table.column(name).to_numpy() for name in names)


def read_joined(paths: Sequence[Path], name: str) -> pa.ChunkedArray | None:
    """Read a column of several tables as one Arrow chunked array; ``None`` if they have no such column."""
    parts = [read_table(path) for path in paths]
    if not parts or name not in parts[0].column_names:
        return None
    joined = pa.chunked_array([chunk for part in parts for chunk in part.column(name).chunks])
    try:
        joined.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{paths[0].parent}: the column {name} is damaged ({error}); {RESUME}") from None
    return joined


def take_joined(columns: Sequence[pa.ChunkedArray | None], counts: Sequence[int], rows: np.ndarray) -> pa.Array | None:
    """Take rows of texts that follow each other; a missing column counts as so many empty texts.

    ``None`` if every column is missing.
    """
    if all(column is None for column in columns):
        return None
    parts = [
        pa.array([""] * count, pa.string()) if column is None else column.cast(pa.string()).combine_chunks()
        for column, count in zip(columns, counts, strict=True)
    ]
    whole = pa.concat_arrays([each for part in parts for each in (part.chunks if hasattr(part, "chunks") else [part])])
    return whole.cast(pa.large_string()).take(pa.array(rows))
