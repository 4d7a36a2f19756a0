"""Vectors, ids and items in columns of Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import DataError
from engine.storage.formats import picture_column
from engine.storage.formats.parquet_arrow import Piece, TableColumn, TableFile
from engine.storage.formats.picture_column import PictureColumn, may_hold_pictures
from engine.storage.formats.sources import Vectors, check_matrix, check_promise

ID_COLUMNS = ("id", "ids", "key", "uid", "image_id")
_ROWS_AT_ONCE = 1024
ITEM_COLUMNS = ("item", "image_path", "path", "text", "caption", "url", "name", "title")
_ITEMS = "items; choose with --items-column"


class ColumnVectors:
    """A ``Part`` that is a list or fixed-size-list column of one or more files."""

    def __init__(self, tables: Sequence[TableFile], column: str | None) -> None:
        self.path = tables[0].path
        self._column = TableColumn(tables, column or vector_column(tables[0].path, tables[0].schema))
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

    def _matrix(self, piece: Piece) -> Vectors | float:
        where = f"{piece.path}: column {self._column.column!r}"
        block = matrix_of(piece.array, where, piece.first_row, self.dim)
        return np.nan if block is None else block


def matrix_of(array: pa.Array, where: str, first_row: int, dim: int | None) -> Vectors | None:
    """Return lists of numbers as an array (N, ``dim``); a row that is null, or a value that is, becomes NaN.

    ``dim``: ``None`` means that of the first row that is not null; the result is ``None`` if all are. Raises
    ``DataError`` naming the row, counted from ``first_row``, of a list of another length.
    """
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    if not is_list(array.type) or not pa.types.is_primitive(array.type.value_type):
        raise DataError(f"{where}: is {array.type}, expected vectors: lists of numbers")
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    held = np.flatnonzero(~_is_null(array)) if array.null_count else np.arange(len(array))
    if not len(held):
        return None
    dim = int(lengths[held[0]]) if dim is None else dim
    bad = held[lengths[held] != dim]
    if len(bad):
        raise DataError(
            f"{where}, row {first_row + bad[0]} has {lengths[bad[0]]:.0f} values, but the others have {dim}"
        )
    values = array.take(pa.array(held)).flatten() if len(held) < len(array) else array.flatten()
    rows = values.to_numpy(zero_copy_only=False).reshape(-1, dim)  # nulls become NaN
    if len(held) == len(array):
        return rows
    block = np.full((len(array), dim), np.nan, np.result_type(rows.dtype, np.float16))
    block[held] = rows
    return block


class ColumnNames:
    """Ids and items from columns beside the vectors, or from metadata files in the same row order."""

    def __init__(self, tables: Sequence[TableFile], items_column: str | None) -> None:
        id_column = _common_column(tables, ID_COLUMNS, "ids")
        items_column = items_column or _picture_column(tables) or _common_column(tables, ITEM_COLUMNS, _ITEMS)
        self._ids = None if id_column is None else TableColumn(tables, id_column)
        self._items = None if items_column is None else TableColumn(tables, items_column)
        self._pictures = None if self._items is None else _pictures(self._items)
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
        if self._pictures is not None:
            return self._pictures.items(start, stop)
        values = (value for piece in self._items.read(start, stop) for value in piece.array.to_pylist())
        return ["" if value is None else _text(value) for value in values]

    def pictures(self, items: Iterable[str]) -> dict[str, bytes | str]:
        return {} if self._pictures is None else self._pictures.pictures(items)

    def files(self) -> list[Path]:
        return [table.path for table in self._tables]


def _pictures(items: TableColumn) -> PictureColumn | None:
    column = PictureColumn(items)
    return column if may_hold_pictures(items.type) and column.holds_pictures() else None


def _picture_column(tables: Sequence[TableFile]) -> str | None:
    """Return the first column that all files have and whose name and type say that it holds pictures."""
    schema = tables[0].schema
    shared = (name for name in picture_column.NAMES if all(name in table.schema.names for table in tables))
    return next((name for name in shared if may_hold_pictures(schema.field(name).type)), None)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


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


def vector_column(where: object, schema: pa.Schema) -> str:
    """Return the name of the only column of lists of floats. Raises ``DataError`` if there is none, or several."""
    kinds = {field.name: storage_type(field.type) for field in schema}
    vector = [name for name, kind in kinds.items() if is_list(kind) and pa.types.is_floating(kind.value_type)]
    if len(vector) == 1:
        return str(vector[0])
    if vector:
        raise DataError(f"{where}: several columns hold vectors: {', '.join(vector)}; choose one with --column")
    raise DataError(
        f"{where}: no column is a list of floats, and no columns are numbered, as f0, f1, ... are; it has "
        f"{', '.join(f'{field.name} ({field.type})' for field in schema) or 'no columns'}"
    )


def _describe(table: TableFile, column: str) -> tuple[int, np.dtype[Any]]:
    where = f"{table.path}: column {column!r}"
    kind = storage_type(table.schema.field(column).type)
    if not is_list(kind) or not pa.types.is_primitive(kind.value_type):
        raise DataError(f"{where} is {kind}, expected lists of floats")
    if pa.types.is_fixed_size_list(kind):
        dim = kind.list_size
    else:
        rows = TableColumn([table], column)
        blocks = (
            piece.array.drop_null()
            for row in range(0, table.num_rows, _ROWS_AT_ONCE)
            for piece in rows.read(row, min(row + _ROWS_AT_ONCE, table.num_rows))
        )
        first = next((block[0] for block in blocks if len(block)), None)
        if first is None:
            raise DataError(f"{where}: every row is null; there is nothing to cluster")
        dim = len(first)
    stored = pa.array([], kind.value_type).to_numpy(zero_copy_only=False).dtype
    _, dim, dtype = check_matrix(where, (table.num_rows, dim), stored)
    return dim, dtype


def storage_type(kind: Any) -> Any:
    """Return the type that stores an extension type's values (``fixed_shape_tensor``: lists); another as it is."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: Any) -> bool:
    """Tell whether a type is one of lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_null(array: pa.Array) -> np.ndarray[Any, Any]:
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False))
