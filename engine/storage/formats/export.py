"""Writers of labels and vectors. A file appears under its name when it is whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from engine.errors import ConfigError, DataError
from engine.storage.manifest import OutputFile, explain_os_errors, write_atomic

LabelFormat = Literal["npy", "txt", "meta", "parquet", "csv"]
TABLES = ("parquet", "csv")  # formats with several columns

_ROWS_AT_ONCE = 1 << 20


def choose_format(name: str, asked: str | None, known: Sequence[str] = get_args(LabelFormat)) -> str:
    """Return the format to write: the one asked for, else the ending of ``name``, else the first of ``known``.

    Raises ``ConfigError`` if the name has the ending of another format, or an unknown ending.
    """
    suffix, endings = PurePath(name).suffix.lower(), ", ".join(f".{each}" for each in known)
    if asked is not None and asked not in known:
        raise ConfigError(f"--format {asked}: expected one of {', '.join(known)}")
    if suffix and suffix[1:] not in known:
        raise ConfigError(f"--out {name}: expected a name that ends in {endings} or nothing, got {suffix}")
    if asked is not None and suffix not in ("", f".{asked}"):
        raise ConfigError(f"--out {name}: the name ends in {suffix}, --format {asked} was asked for; name it .{asked}")
    return asked or suffix[1:] or known[0]


def write_labels(
    path: str | Path, labels_N: npt.NDArray[Any], format: LabelFormat = "npy", columns: Mapping[str, Any] | None = None
) -> OutputFile:
    """Write integer labels (N,) atomically, replace an existing file, and return the size and checksum.

    ``npy``: int64 (N,). ``txt`` and ``meta``: one integer per line. ``parquet`` and ``csv``: columns ``row``, ``id`` if
    it is among ``columns``, ``label``, then the rest of ``columns``: sequences or Arrow arrays of N values by name.
    Raises ``DataError`` for labels that are not integers or columns of another length, ``ConfigError`` for an
    unknown format or one that cannot hold the columns given, ``DiskBudgetExceeded`` if the disk is full.
    """
    labels = np.asarray(labels_N)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"labels to write are {labels.dtype} of shape {labels.shape}, expected integers of shape (N,)")
    labels = labels.astype(np.int64, copy=False)
    if format not in get_args(LabelFormat):
        raise ConfigError(f"unknown format of labels {format!r}; known: {', '.join(get_args(LabelFormat))}")
    extra = dict(columns or {})
    if format in TABLES:
        first = {"id": extra.pop("id")} if "id" in extra else {}
        return write_table(path, {"row": np.arange(len(labels)), **first, "label": labels, **extra}, format)
    if extra:
        raise ConfigError(
            f"format {format!r} holds labels only; choose parquet or csv for {' and '.join(extra)} as well"
        )

    def write(file: BinaryIO) -> None:
        if format == "npy":
            np.lib.format.write_array(file, labels, allow_pickle=False)
        else:
            for start in range(0, len(labels), _ROWS_AT_ONCE):
                file.write(as_lines(labels[start : start + _ROWS_AT_ONCE]))

    return write_atomic(Path(path), write)


def write_table(path: str | Path, columns: Mapping[str, Any], format: str = "parquet") -> OutputFile:
    """Write equally long columns (sequences, NumPy or Arrow arrays) as Parquet or CSV, atomically.

    CSV has a line of names, text in quotes, and nothing for a missing value. Raises ``DataError`` for a column that
    differs in length from the first, or that CSV cannot hold.
    """
    arrays = {
        name: values if isinstance(values, pa.ChunkedArray) else pa.array(values) for name, values in columns.items()
    }
    num_rows = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        if len(array) != num_rows:
            raise DataError(f"{num_rows} rows to write, but {len(array)} values of {name}")
        if format == "csv" and pa.types.is_nested(array.type):
            raise DataError(f"{path}: column {name} is {array.type}, which CSV cannot hold; choose parquet")
    schema = pa.schema([(name, array.type) for name, array in arrays.items()])

    def write(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, schema) if format == "parquet" else pacsv.CSVWriter(file, schema) as writer:
            for start in range(0, max(num_rows, 1), _ROWS_AT_ONCE):
                part = {name: array[start : start + _ROWS_AT_ONCE] for name, array in arrays.items()}
                writer.write_table(pa.table(part, schema=schema))

    return write_atomic(Path(path), write)


def stream_table(path: str | Path, blocks: Iterable[Mapping[str, Any]], format: str = "parquet") -> int:
    """Write a table as ``write_table`` does, block by block, and return how many rows it has.

    Every block has the columns of the first. Raises ``DataError`` if there is no block.
    """
    rows = 0

    def write(file: BinaryIO) -> None:
        nonlocal rows
        writer, schema = None, None
        try:
            for block in blocks:
                table = pa.table({name: pa.array(values) for name, values in block.items()})
                if writer is None:
                    kind = pq.ParquetWriter if format == "parquet" else pacsv.CSVWriter
                    writer, schema = kind(file, table.schema), table.schema
                writer.write_table(table.cast(schema))
                rows += len(table)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise DataError(f"{path}: no rows to write")

    write_atomic(Path(path), write)
    return rows


class AtomicWriter:
    """A file to which a ``with`` block appends. It takes its name at the end, unless the block raised."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.num_rows = 0
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Self:
        with explain_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with explain_os_errors(self.path), self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            if error is None:
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _write(self, data: bytes | memoryview) -> None:
        with explain_os_errors(self.path):
            self._file.write(data)


class BinWriter(AtomicWriter):
    """Write ``.bin`` vectors: raw little-endian float32, C order."""

    dim: int | None = None

    def append(self, features_ND: npt.NDArray[Any]) -> None:
        """Append rows (N, D). Raises ``DataError`` if they differ in dimension from the first."""
        if features_ND.ndim != 2 or self.dim not in (None, features_ND.shape[1]):
            raise DataError(f"{self.path}: rows of dimension {self.dim} expected, got shape {features_ND.shape}")
        self.dim = features_ND.shape[1]
        self.num_rows += len(features_ND)
        self._write(np.ascontiguousarray(features_ND, "<f4").data)


class MetaWriter(AtomicWriter):
    """Write ``.meta`` labels: one integer per line."""

    def append(self, labels_N: npt.NDArray[Any]) -> None:
        """Append integer labels (N,)."""
        self.num_rows += len(labels_N)
        self._write(as_lines(np.asarray(labels_N, np.int64)))


def as_lines(labels: npt.NDArray[np.int64]) -> bytes:
    """Return the labels as text, one to a line, for ``txt`` and ``meta``."""
    text = pa.array(labels).cast(pa.string())
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(text)], pa.int32()), text), "\n")
    return joined[0].as_buffer().to_pybytes() + b"\n" if len(labels) else b""
