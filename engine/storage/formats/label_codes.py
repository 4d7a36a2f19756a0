"""Labels of any type to int64: whole numbers stay, names are numbered in the order of their first row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import DataError

Labels = npt.NDArray[np.int64]

_LARGEST_EXACT_FLOAT = float(1 << 53)


def label_codes(where: object, values: pa.ChunkedArray | npt.NDArray[Any]) -> Labels:
    """Return labels as int64 (N,). Floats that are whole numbers are taken.

    Names (texts, in Arrow also dictionaries of them) are numbered from 0 in the order of their first row; a missing or
    empty name, and the name ``-1``, are -1. Raises ``DataError`` naming the row of a missing number or a fraction.
    """
    if isinstance(values, np.ndarray):
        return _codes_of_names(pa.array(values)) if values.dtype.kind == "U" else _whole_numbers(where, values)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _codes_of_names(values.combine_chunks().cast(pa.large_string()))
    if kind != values.type or pa.types.is_boolean(kind):
        values = values.cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{where}: is {kind}, expected integers or names")
    if values.null_count:
        row = pc.index(values.is_null(), True).as_py()
        raise DataError(f"{where}, row {row} is null; write -1 for a row without a label")
    return _whole_numbers(where, values.to_numpy())


def check_labels(where: object, labels: Labels, what: str = "row") -> Labels:
    """Return labels (N,). Raises ``DataError`` if there are none, or for one below -1.

    ``what``: "row", counted from 0, or "line", counted from 1.
    """
    if len(labels) == 0:
        raise DataError(f"{where}: holds no labels")
    if labels.min() < -1:
        row = int(np.argmax(labels < -1))
        raise DataError(
            f"{where}: {what} {row + (what == 'line')} is {labels[row]}; a label is 0 or more, or -1 for no cluster"
        )
    return labels


def _codes_of_names(names: pa.Array) -> Labels:
    found = pc.dictionary_encode(names, null_encoding="mask")
    known = [name not in ("", "-1") for name in found.dictionary.to_pylist()]
    codes = np.where(known, np.cumsum(known) - 1, -1).astype(np.int64)
    indices = found.indices.fill_null(len(codes)).to_numpy(zero_copy_only=False)
    return np.append(codes, -1)[indices].astype(np.int64)


def _whole_numbers(where: object, values: npt.NDArray[Any]) -> Labels:
    if values.dtype.kind == "f":
        whole = (values == np.rint(values)) & (np.abs(values) <= _LARGEST_EXACT_FLOAT)
    elif values.dtype.kind == "u":
        whole = values <= np.iinfo(np.int64).max
    elif values.dtype.kind == "i":
        return values.astype(np.int64)
    else:
        raise DataError(f"{where}: holds {values.dtype}, expected integers or names")
    if not whole.all():
        row = int(np.argmin(whole))
        raise DataError(f"{where}: row {row} is {values[row]}, expected an integer; write -1 for a row without a label")
    return values.astype(np.int64)
