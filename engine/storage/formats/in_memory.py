"""Vectors and labels that a Python caller holds: arrays, lists, tensors, data frames, Arrow data, DLPack.

Nothing is imported to recognise them: pandas, polars, torch, JAX and datasets are told apart by their protocols.

Shape suffixes: N rows, D dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import DataError
from engine.storage.formats.columns import matrix_of, vector_column
from engine.storage.formats.label_codes import Labels, check_labels, label_codes
from engine.storage.formats.sources import Vectors, check_matrix
from engine.storage.formats.wide import with_wide_column

TAKEN = (
    "an array, a list, a tensor, a data frame of number columns, a column of vectors (pandas, polars, Arrow), or a path"
)


def is_place(value: Any) -> bool:
    """Tell whether a caller's value is a path or URL; anything else is data."""
    return isinstance(value, str | os.PathLike)


def as_vectors(value: Any, name: str = "features") -> Vectors:
    """Return a caller's vectors as an array (N, D) of float16, float32, float64 or 8-bit integers.

    A missing vector, or a missing value in one, becomes NaN, which ingestion refuses or sets aside. A data frame is a
    wide table, or has one column of vectors. Raises ``DataError`` for anything else, naming the row where it can.
    """
    held = _held(value, name)
    if isinstance(held, pa.Table):
        table = with_wide_column(held, name)
        column = vector_column(name, table.schema)
        held = table.column(column)
        name = f"{name}, column {column!r}"
    if isinstance(held, pa.ChunkedArray):
        return _stack(held, name)
    array_ND = _of_objects(held, name) if held.dtype.hasobject else held
    if array_ND.dtype.kind == "i" and isinstance(value, list | tuple):
        array_ND = array_ND.astype(np.float64)
    check_matrix(name, array_ND.shape, array_ND.dtype)
    return array_ND


def as_labels(value: Any, name: str = "labels") -> Labels:
    """Return a caller's labels, numbers or names, as int64 (N,); -1 for a row of unknown identity.

    Names are numbered in the order of their first row; a missing or empty name is -1. Raises ``DataError``.
    """
    held = _held(value, name)
    if isinstance(held, pa.Table):
        if held.num_columns != 1:
            raise DataError(
                f"{name}: a table of {held.num_columns} columns ({', '.join(held.column_names[:8])}); "
                f"pass the one that holds the labels"
            )
        held = held.column(0)
    if isinstance(held, pa.ChunkedArray):
        return check_labels(name, label_codes(name, held))
    if held.ndim == 2 and held.shape[1] == 1:
        held = held[:, 0]
    if held.ndim != 1:
        raise DataError(f"{name}: expected one label per row, shape (N,), got shape {held.shape}")
    if held.dtype.kind in "OUSb":
        held = np.array([_text(each) for each in held], object) if held.dtype.kind == "S" else held
        try:
            column = pa.chunked_array([pa.array(held, from_pandas=True)])
        except (pa.ArrowException, TypeError) as error:
            raise DataError(f"{name}: labels of several types, expected integers or names ({error})") from None
        return check_labels(name, label_codes(name, column))
    return check_labels(name, label_codes(name, held))


def _held(value: Any, name: str) -> npt.NDArray[Any] | pa.Table | pa.ChunkedArray:
    """Bring a caller's value to an array, an Arrow table or an Arrow column, without copying where that is possible."""
    if isinstance(value, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(value), np.nan, np.ma.getdata(value).astype(np.float64))
    if isinstance(value, np.ndarray):
        return _plain(value)
    if is_place(value) or isinstance(value, bytes | dict | set):
        raise DataError(f"{name}: got {_kind(value)}, expected {TAKEN}")
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return _of_tensor(value)
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise DataError(
            f"{name}: a sparse matrix ({_kind(value)}), expected dense vectors: pass its .toarray() if it fits in "
            f"memory, or reduce it first, for example with sklearn's TruncatedSVD"
        )
    if hasattr(value, "with_format") and hasattr(value, "features"):  # a Hugging Face dataset
        value = value.with_format("arrow")[:]
    try:
        if (found := _of_arrow(value)) is not None:
            return found
        if hasattr(value, "__array__"):
            return _plain(np.asarray(value))
        if hasattr(value, "__dlpack__"):
            return _plain(np.from_dlpack(value))
    except (pa.ArrowException, TypeError, ValueError, RuntimeError, BufferError) as error:
        if hasattr(value, "get") and type(value).__module__.startswith("cupy"):
            return _plain(np.asarray(value.get()))
        raise DataError(f"{name}: {_kind(value)} cannot be read: {' '.join(str(error).split())}") from None
    if isinstance(value, Sequence) or (isinstance(value, Iterable) and hasattr(value, "__len__")):
        return _of_sequence(list(value))
    raise DataError(f"{name}: got {_kind(value)}, expected {TAKEN}")


def _of_arrow(value: Any) -> pa.Table | pa.ChunkedArray | None:
    """Return Arrow data of pyarrow, pandas or another library's Arrow interface; ``None`` if it is none of these."""
    if isinstance(value, pa.Table | pa.ChunkedArray):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, pa.Array):
        return pa.chunked_array([value])
    if type(value).__module__.partition(".")[0] == "pandas":
        if hasattr(value, "columns"):
            return pa.Table.from_pandas(value, preserve_index=False)
        found = pa.Array.from_pandas(value)
        return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    if hasattr(value, "__arrow_c_stream__"):
        return pa.table(value) if hasattr(value, "columns") else pa.chunked_array(value)
    if hasattr(value, "__arrow_c_array__"):
        found = pa.array(value)
        return pa.Table.from_struct_array(found) if pa.types.is_struct(found.type) else pa.chunked_array([found])
    return None


def _of_tensor(value: Any) -> npt.NDArray[Any]:
    """Return the values of a torch tensor on any device, with or without a gradient; bfloat16 as float32."""
    tensor = value.detach().cpu()
    if "bfloat16" in str(tensor.dtype) or "float8" in str(tensor.dtype):
        tensor = tensor.float()
    return _plain(tensor.numpy())


def _of_sequence(values: list[Any]) -> npt.NDArray[Any]:
    """Return an array of a list: of numbers, names, or rows; of objects where rows differ in length."""
    if values and hasattr(values[0], "detach") and hasattr(values[0], "cpu"):
        values = [_of_tensor(each) if hasattr(each, "detach") else each for each in values]
    try:
        return _plain(np.asarray(values)) if _even(values) else _objects(values)
    except ValueError:  # rows of several lengths
        return _objects(values)


def _even(values: list[Any]) -> bool:
    """Tell whether numpy can take a list whole: it makes one text of numbers and names together."""
    return not any(isinstance(each, str) or each is None for each in values)


def _objects(values: list[Any]) -> npt.NDArray[Any]:
    array = np.empty(len(values), object)
    for row, each in enumerate(values):
        array[row] = each
    return array


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array in a type of numpy's own: the bfloat16 of JAX and TensorFlow is one of another package."""
    if array.dtype.kind == "V" and array.dtype.names is None and "float" in array.dtype.name:
        return array.astype(np.float32)
    return array


def _of_objects(rows: npt.NDArray[Any], name: str) -> Vectors:
    """Stack an array of objects (N,), one vector each, or of numbers as objects (N, D), to float64 (N, D)."""
    if rows.ndim == 2:
        try:
            return rows.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: values that are no numbers: {error}") from None
    found: list[npt.NDArray[Any] | None] = []
    for number, row in enumerate(rows):
        if row is None or (isinstance(row, float) and row != row):
            found.append(None)
            continue
        if isinstance(row, str | bytes):
            raise DataError(
                f"{name}: row {number} is a text, {_text(row)[:40]!r}, expected a vector; embed the texts first"
            )
        try:
            values = np.asarray(_of_tensor(row) if hasattr(row, "detach") else row)
            found.append(values.astype(np.float64) if values.dtype.kind not in "f" else values)
        except (TypeError, ValueError):
            raise DataError(f"{name}: row {number} is {_kind(row)}, expected a vector of numbers") from None
    first = next((row for row in found if row is not None), None)
    if first is None or first.ndim != 1:
        raise DataError(
            f"{name}: expected a vector in each row, shape (N, D), got {_kind(rows[0]) if len(rows) else 0}"
        )
    for number, vector in enumerate(found):
        if vector is not None and vector.shape != first.shape:
            raise DataError(
                f"{name}: row {number} has {vector.size} values, but the first vector has {first.size}; all must agree"
            )
    return np.stack([np.full(first.shape, np.nan) if row is None else row for row in found])


def _stack(column: pa.ChunkedArray, name: str) -> Vectors:
    """Return a column of vectors as an array (N, D)."""
    blocks, first_row, dim = [], 0, None
    for chunk in column.chunks:
        block = matrix_of(chunk, name, first_row, dim)
        first_row += len(chunk)
        if block is not None:
            dim = block.shape[1]
        blocks.append((len(chunk), block))
    if dim is None:
        raise DataError(f"{name}: is {column.type}, and holds no vector")
    held = [np.full((rows, dim), np.nan, np.float32) if block is None else block for rows, block in blocks]
    return np.concatenate(held) if len(held) > 1 else held[0]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _kind(value: Any) -> str:
    """Name a value's type, with its package."""
    kind = type(value)
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
