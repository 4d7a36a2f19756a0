"""Vectors, ids and items in columns of Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import DataError
from engine.storage.formats.parquet_arrow import Piece, TableColumn, TableFile
from engine.storage.formats.sources import Vectors, check_matrix, check_promise

ID_COLUMNS = ("id", "ids", "key", "uid", "image_id")
ITEM_COLUMNS = ("item", "image_path", "path", "text", "caption", "url", "name", "title")


class ColumnVectors:
    """A ``Part`` that is a list or fixed-size-list column of one or more files."""

    def __init__(self, tables: Sequence[TableFile], column: str | None) -> None:
        self.path = tables[0].path
        self._column = TableColumn(tables, column or _only_vector_column(tables[0]))
        self.num_rows = self._column.num_rows
        described = {table.path: _describe(table, self._column.column) for table in tables if table.num_rows}
        self.dim = next((dim for dim, _ in described.values()), 0)
        self.dtype = np.result_type(*(dtype for _, dtype in described.values())) if described else np.dtype(np.float32)
        for path, (dim, dtype) in described.items():
            rows = next(table.num_rows for table in tables if table.path == path)
            check_promise(path, rows * dim * dtype.itemsize, path.stat().st_size)
            if dim != self.dim:
                raise DataError(
                    f"{path}: vectors of dimension {dim}, but {next(iter(described))} has {self.dim}; "
                    f"all files of a source must agree"
                )

    def read(self, start: int, stop: int) -> Vectors:
        block = np.empty((stop - start, self.dim), self.dtype)
        filled = 0
        for piece in self._column.read(start, stop):
            block[filled : filled + len(piece.array)] = self._matrix(piece)
            filled += len(piece.array)
        return block

    def _matrix(self, piece: Piece) -> Vectors:
        where = f"{piece.path}: column {self._column.column!r}"
        if piece.array.null_count:
            row = piece.first_row + int(np.flatnonzero(_is_null(piece.array))[0])
            raise DataError(f"{where}, row {row} is null; drop the rows without a vector")
        lengths = pc.list_value_length(piece.array).to_numpy()
        bad = np.flatnonzero(lengths != self.dim)
        if len(bad):
            raise DataError(
                f"{where}, row {piece.first_row + bad[0]} has {lengths[bad[0]]} values, but the others have {self.dim}"
            )
        values = piece.array.flatten()
        if values.null_count:
            row = piece.first_row + int(np.flatnonzero(_is_null(values))[0]) // self.dim
            raise DataError(f"{where}, row {row} has a null among its values; drop such rows")
        return values.to_numpy(zero_copy_only=False).reshape(-1, self.dim)


class ColumnNames:
    """Ids and items from columns beside the vectors, or from metadata files in the same row order."""

    def __init__(self, tables: Sequence[TableFile], items_column: str | None) -> None:
        id_column = _common_column(tables, ID_COLUMNS, "ids")
        items_column = items_column or _common_column(tables, ITEM_COLUMNS, "items; choose with --items-column")
        self._ids = None if id_column is None else TableColumn(tables, id_column)
        self._items = None if items_column is None else TableColumn(tables, items_column)
        self._tables = tables
        for table in tables if id_column is not None else ():
            if table.schema.field(id_column).type != tables[0].schema.field(id_column).type:
                raise DataError(
                    f"{table.path}: column {id_column!r} is {table.schema.field(id_column).type}, but "
                    f"{tables[0].path} has {tables[0].schema.field(id_column).type}; all files of a source must agree"
                )

    def ids(self) -> pa.ChunkedArray | None:
        if self._ids is None:
            return None
        pieces = self._ids.read(0, self._ids.num_rows)
        return pa.chunked_array([piece.array for piece in pieces], self._ids.type)

    def items(self, start: int, stop: int) -> list[str] | None:
        if self._items is None:
            return None
        values = (value for piece in self._items.read(start, stop) for value in piece.array.to_pylist())
        return ["" if value is None else str(value) for value in values]

    def files(self) -> list[Path]:
        return [table.path for table in self._tables]


def _common_column(tables: Sequence[TableFile], known: Sequence[str], what: str) -> str | None:
    """Return the first known column that the files have. Raises ``DataError`` if the files differ in it."""
    found = [next((name for name in known if name in table.schema.names), None) for table in tables]
    for table, name in zip(tables, found, strict=True):
        if name != found[0]:
            raise DataError(
                f"{table.path}: has {name or 'no column'} for {what}, but {tables[0].path} has "
                f"{found[0] or 'none'}; all files of a source must agree"
            )
    return found[0]


def _only_vector_column(table: TableFile) -> str:
    vector = [f.name for f in table.schema if _is_list(f.type) and pa.types.is_floating(f.type.value_type)]
    if len(vector) == 1:
        return str(vector[0])
    if vector:
        raise DataError(f"{table.path}: several columns hold vectors: {', '.join(vector)}; choose one with --column")
    raise DataError(
        f"{table.path}: no column is a list of floats; it has "
        f"{', '.join(f'{field.name} ({field.type})' for field in table.schema) or 'no columns'}"
    )


def _describe(table: TableFile, column: str) -> tuple[int, np.dtype[Any]]:
    where = f"{table.path}: column {column!r}"
    kind = table.schema.field(column).type
    if not _is_list(kind) or not pa.types.is_primitive(kind.value_type):
        raise DataError(f"{where} is {kind}, expected lists of floats")
    if pa.types.is_fixed_size_list(kind):
        dim = kind.list_size
    else:
        first = TableColumn([table], column).read(0, 1)[0].array[0]
        if not first.is_valid:
            raise DataError(f"{where}, row 0 is null; drop the rows without a vector")
        dim = len(first)
    stored = pa.array([], kind.value_type).to_numpy(zero_copy_only=False).dtype
    _, dim, dtype = check_matrix(where, (table.num_rows, dim), stored)
    return dim, dtype


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_null(array: pa.Array) -> np.ndarray[Any, Any]:
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False))
