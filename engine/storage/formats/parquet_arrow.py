"""Columns of Parquet, Arrow IPC (Feather, Hugging Face) and CSV files, read as one stream."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from engine.errors import DataError
from engine.storage.formats.sources import natural_order
from engine.storage.paths import check_file

TABLE_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".csv": "CSV"}
FOLDER_SUFFIXES = tuple(suffix for suffix in TABLE_SUFFIXES if suffix != ".csv")  # several files make one source
_FILE_MAGIC = b"ARROW1"
_CSV_BLOCK_BYTES = 4 << 20  # a line has to fit in it
_BATCH_ROWS = 4096
_TABLE_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)  # of damaged files
_MOST_ROWS = 1 << 40
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one column of one file; ``first_row`` counts from the start of that file."""

    path: Path
    first_row: int
    array: pa.Array


class TableFile(ABC):
    """A file of columns, which is closed between reads."""

    path: Path
    schema: pa.Schema
    num_rows: int

    sequential = False  # true if a read that does not go on from the last one starts again from the first row

    @abstractmethod
    def frames(self, columns: list[str], start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (first row, columns) of each stored batch, from the one that holds row ``start``, or an earlier one."""

    def batches(self, column: str, start: int) -> Iterator[tuple[int, pa.Array]]:
        """Yield (first row, values) of one column; values of an extension type as those that store them."""
        for row, frame in self.frames([column], start):
            values = frame.column(0)
            yield row, values.storage if isinstance(values, pa.ExtensionArray) else values


class ParquetTable(TableFile):
    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.OSFile(os.fsencode(path)) as opened, pq.ParquetFile(opened) as file:
            self.schema = file.schema_arrow
            # Nothing else of the metadata is read, because pyarrow ends the process for a damaged column's.
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            if file.metadata.num_rows != sum(sizes):
                raise ValueError(f"{file.metadata.num_rows} rows, but {sum(sizes)} in its row groups")
        self._starts = _starts(sizes)
        self.num_rows = int(self._starts[-1])

    def frames(self, columns: list[str], start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        group = int(np.searchsorted(self._starts, start, side="right")) - 1
        groups = list(range(group, len(self._starts) - 1))
        row = int(self._starts[group])
        # Pre-buffering would read whole row groups, which may be larger than memory.
        opening = pa.OSFile(os.fsencode(self.path))  # bytes, because the name may not be UTF-8
        with opening as opened, pq.ParquetFile(opened, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
                yield row, batch
                row += batch.num_rows


class ArrowTable(TableFile):
    """A memory-mapped Arrow IPC file or stream. Its pages count as resident, but the system can take them back.

    A compressed file is decoded a batch at a time, so its largest batch has to fit in memory about three times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.memory_map(os.fsencode(path)) as file:
            self._streamed = file.read(len(_FILE_MAGIC)) != _FILE_MAGIC
            self.schema = self._open(file).schema
            # Neither footer nor schema has lengths of batches, so they are read from the cheapest column.
            flat = [i for i, field in enumerate(self.schema) if not pa.types.is_nested(field.type)]
            sizes = [batch.num_rows for batch in self._read(file, [(flat or [0])[0]], 0)]
        self._starts = _starts(sizes)
        self.num_rows = int(self._starts[-1])

    def frames(self, columns: list[str], start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        with pa.memory_map(os.fsencode(self.path)) as file:
            fields = [self.schema.get_field_index(column) for column in columns]
            for i, batch in enumerate(self._read(file, fields, first), start=first):
                yield int(self._starts[i]), batch

    def _read(self, file: Any, fields: list[int], first: int) -> Iterator[pa.RecordBatch]:
        reader = self._open(file, fields)
        if self._streamed:
            yield from islice(reader, first, None)
        else:
            yield from (reader.get_batch(i) for i in range(first, reader.num_record_batches))

    def _open(self, file: Any, fields: list[int] | None = None) -> Any:
        file.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        return pa.ipc.open_stream(file, options=options) if self._streamed else pa.ipc.open_file(file, options=options)


class CsvTable(TableFile):
    """A CSV file with a line of names, read from its start; numbers are float64 where any of the first rows is one.

    Every pass parses the file anew, a block at a time.
    """

    sequential = True

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open(None, {}) as reader:
            first = reader.schema
        # The types follow from the first block, where a column of reals may hold whole numbers alone.
        wide = [field.name for field in first if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]
        numbered = {name for name in wide if name[-1:].isdigit()}
        self._types = {
            name: pa.float64() for name in wide if name in numbered or pa.types.is_floating(first.field(name).type)
        }
        self.schema = pa.schema([pa.field(f.name, self._types.get(f.name, f.type)) for f in first])
        with self._open(self.schema.names[:1], self._types) as reader:
            self.num_rows = sum(batch.num_rows for batch in reader)

    def frames(self, columns: list[str], start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        row = 0
        with self._open(columns, self._types) as reader:
            for batch in reader:
                if row + batch.num_rows > start:
                    yield row, batch
                row += batch.num_rows

    def _open(self, columns: list[str] | None, types: dict[str, pa.DataType]) -> Any:
        convert = pacsv.ConvertOptions(include_columns=columns, column_types=types)
        return pacsv.open_csv(
            os.fsencode(self.path) if not str(self.path).isprintable() else str(self.path),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
            convert_options=convert,
        )


class TableColumn:
    """One column of consecutive files.

    A read that begins where the last one ended continues it. Any other read decodes from the start of the row group or
    batch that holds its first row.
    """

    def __init__(self, tables: Sequence[TableFile], column: str) -> None:
        for table in tables:
            if column not in table.schema.names:
                raise DataError(f"{table.path}: has no column {column!r}; it has {', '.join(table.schema.names)}")
            if table.schema.names.count(column) > 1:
                raise DataError(f"{table.path}: has several columns named {column!r}; expected one")
        self.column = column
        self.type = tables[0].schema.field(column).type
        self._tables = tables
        self._ends = np.cumsum([table.num_rows for table in tables], dtype=np.int64)
        self.num_rows = int(self._ends[-1])
        self._next = -1
        self._stream: Iterator[Piece] = iter(())
        self._left: Piece | None = None
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> list[Piece]:
        """Return rows ``start..stop`` in pieces; rows are counted over all files."""
        with self._lock:
            if start != self._next:
                self._stream, self._left = self._pieces(start), None
            self._next = -1  # until this read has succeeded
            pieces, missing = [], stop - start
            while missing:
                piece = self._left or next(self._stream, None)
                if piece is None:
                    raise DataError(f"{self._tables[-1].path}: ended before row {stop}; is it still being written?")
                taken = min(missing, len(piece.array))
                pieces.append(Piece(piece.path, piece.first_row, piece.array[:taken]))
                rest = piece.array[taken:]
                self._left = Piece(piece.path, piece.first_row + taken, rest) if len(rest) else None
                missing -= taken
            self._next = stop
            return pieces

    def _pieces(self, start: int) -> Iterator[Piece]:
        for table, end in zip(self._tables, self._ends, strict=True):
            if start >= end or not table.num_rows:
                continue
            local = max(start - (int(end) - table.num_rows), 0)
            try:
                for first_row, values in table.batches(self.column, local):
                    skip = max(local - first_row, 0)
                    if skip < len(values):
                        # Unchecked, values outside the buffers or texts that are not UTF-8 end the process.
                        values.validate(full=True)
                        yield Piece(table.path, first_row + skip, values[skip:])
            except _TABLE_ERRORS as error:
                raise DataError(f"{table.path}: column {self.column!r} cannot be read: {_word(error)}") from error


def _starts(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the first row of each row group or batch, then the number of rows."""
    if any(size < 0 for size in sizes) or sum(sizes) > _MOST_ROWS:
        raise ValueError(f"its parts are to hold {sum(sizes)} rows")
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def open_table(path: Path) -> TableFile:
    """Open a Parquet, Arrow IPC or CSV file by its suffix. Raises ``DataError`` for a damaged or another file."""
    check_file(path)
    try:
        table = _READERS[TABLE_SUFFIXES[path.suffix.lower()]](path)
        if any(not name.isprintable() for name in table.schema.names):  # raises if a name is not UTF-8
            raise ValueError(f"columns are named {table.schema.names!r}")
        return table
    except _TABLE_ERRORS as error:
        kind = TABLE_SUFFIXES[path.suffix.lower()]
        raise DataError(f"{path}: not a readable {kind} file ({_word(error)}); is it truncated?") from error


_READERS: dict[str, Callable[[Path], TableFile]] = {"parquet": ParquetTable, "arrow": ArrowTable, "CSV": CsvTable}


def _word(error: BaseException) -> str:
    """Return the text of a library's error on one line."""
    return " ".join(str(error).split())


def table_files(folder: Path) -> list[Path]:
    """Return the Parquet or Arrow files of a folder in natural order. Raises ``DataError`` for both kinds."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in FOLDER_SUFFIXES and p.name[0] not in "._"]
    kinds = {TABLE_SUFFIXES[p.suffix.lower()] for p in files}
    if len(kinds) > 1:
        raise DataError(f"{folder}: holds both Parquet and Arrow files; keep one kind, or name one file")
    if not files:
        raise DataError(f"{folder}: its Parquet and Arrow files all have names starting with '.' or '_'; name one file")
    return natural_order(files)
