"""Step ingest: normalised features, and the ids and items of the rows, from the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.errors import DataError
from engine.runs.step import F, Outside, RowStep, Task, where
from engine.stages import Cost
from engine.steps.source import Normalised, normalise, refuse_changed, refuse_zeros, source_files
from engine.storage.arrays import write_rows
from engine.storage.context import hold, stage_facts, table_parts
from engine.storage.formats.packed_bits import refuse_packed
from engine.storage.formats.registry import open_source
from engine.storage.manifest import OutputFile
from engine.storage.tables import read_joined
from engine.tiles import stream_tiles, tile_bounds, usable_cores
from engine.units import CHUNK_ROWS, file_rows

_KEPT_BYTES = 128 << 20  # a reader of a chunked or compressed format keeps so many bytes
_PLAIN = (".bin", ".npy", ".fbin", ".fvecs")  # formats whose readers keep nothing
_NAME_BYTES = 256  # bytes of an id and an item
WRITERS = 2  # threads that wait for the disk while others compute


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors(RowStep[F]):
    """A step that writes ``features`` (N, D): unit rows, float16 or float32; zero vectors stay zeros."""

    dim: int


@dataclass(frozen=True)
class IngestFacts:
    """The numbers of the rows without a direction, ascending: zero vectors, and rows with NaN or missing values.

    ``lengths``: number of the other rows, and the sums of the logarithms of their lengths and of the squares of these.
    """

    zero_rows: list[int]
    bad_rows: list[int] = field(default_factory=list)
    lengths: list[float] = field(default_factory=lambda: [0, 0.0, 0.0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows(Vectors[IngestFacts]):
    """The source's rows: ``features`` by source row, and the table ``rows`` of ids and items where there are any.

    ``source``: digest of a source other than the run's own; the own source's digest is in every fingerprint anyway.
    """

    facts = IngestFacts
    source: str | None = None
    path: str = where("")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ingest(Rows):
    """Reads, checks and normalises the source's vectors. ``item_bytes``: bytes of a value in the source."""

    kind, version, title = "ingest", 3, "ingest"
    dtype: str
    zero_vectors: str
    bad_rows: str = "error"
    item_bytes: int = where()
    spec: Mapping[str, Any] = where()
    source_version: Any = where()

    def cost(self) -> Cost:
        """Project a few chunks for each thread, the files on their way, and what the format's reader keeps."""
        stored = 2 if self.dtype == "float16" else 4
        held, files = 2 * usable_cores() + 1, 3 * WRITERS + 1
        return Cost(
            fixed_bytes=CHUNK_ROWS * self.dim * held * (self.item_bytes + 4 + stored)
            + file_rows(self.num_rows) * self.dim * files * stored
            + (0 if self.path.endswith(_PLAIN) else _KEPT_BYTES),
            bytes_per_row=_NAME_BYTES,
            disk_bytes=self.num_rows * self.dim * stored,
            seconds=self.num_rows * self.dim / 2e8,
        )

    def run(self, task: Task, start: int, stop: int) -> IngestFacts:
        """Write the rows: chunks are normalised and files written while the next are read, each byte once, in order.

        Raises ``DataError``, and commits nothing, if the source, before or after, is not the one that was planned.
        """
        spec, version = dict(self.spec), self.source_version
        source = hold(("source", repr(sorted(spec.items())), version), lambda: open_source(**spec))
        refuse_changed(Path(source.path), source_files(source), version)
        task.create_rows("features", (source.dim,), self.dtype)

        found: list[Normalised] = []

        def normalised(chunk: tuple[int, np.ndarray]) -> Normalised:
            first, rows_ND = chunk
            if first == 0 and spec.get("bits") is None:
                refuse_packed(rows_ND, source.path)
            rows = normalise(rows_ND, first, source.path, drop_bad=self.bad_rows == "drop")
            unit_ND = _stored(rows.unit_ND, self.dtype)
            return Normalised(unit_ND, rows.zeros + first, rows.bad + first, rows.lengths_N)

        def files() -> Iterator[tuple[int, list[np.ndarray]]]:
            """Collect the chunks of each file of the array, in order."""
            each, pieces, first = file_rows(self.num_rows) // CHUNK_ROWS, list[np.ndarray](), start
            chunks = ((a, source.read(a, b)) for a, b in tile_bounds(start, stop, CHUNK_ROWS))
            for rows in stream_tiles(normalised, chunks, task.threads):
                pieces.append(rows.unit_ND)
                found.append(rows._replace(unit_ND=np.empty(0)))
                if len(pieces) == each:
                    yield first, pieces
                    pieces, first = [], first + each * CHUNK_ROWS
            if pieces:
                yield first, pieces

        def store(file: tuple[int, list[np.ndarray]]) -> list[OutputFile]:
            first, pieces = file
            rows_ND = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            return write_rows(task.folder, "features", first, rows_ND)

        for outputs in stream_tiles(store, files(), WRITERS):
            task.outputs += outputs
        zeros = np.concatenate([np.empty(0, np.int64), *(rows.zeros for rows in found)])
        bad = np.concatenate([np.empty(0, np.int64), *(rows.bad for rows in found)])
        if self.zero_vectors == "error":
            refuse_zeros(zeros, source.path)
        if len(bad) + (len(zeros) if self.zero_vectors == "drop" else 0) == self.num_rows:
            what = "zero vectors" if not len(bad) else "zero vectors, or hold NaN or missing values"
            raise DataError(f"{source.path}: all {self.num_rows:,} rows are {what}; none has a direction to cluster by")
        columns: dict[str, Any] = {}
        if (ids := source.ids()) is not None:
            columns["id"] = ids[start:stop]
        if (items := source.items(start, stop)) is not None:
            columns["item"] = items
        if columns:
            task.write_table("rows", columns)
        refuse_changed(Path(source.path), source_files(source), version)
        return IngestFacts(zeros.tolist(), bad.tolist(), _sum_lengths([rows.lengths_N for rows in found]))


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRows(Rows, Outside):
    """The rows of a store, which an earlier ``ingest`` left in ``folder``."""

    kind, version, title = "stored", 1, ""
    folder: str = where()

    @property
    def name(self) -> str:
        return self.folder


def _stored(rows_ND: np.ndarray, dtype: str) -> np.ndarray:
    """Convert float32 rows to the stored dtype; torch rounds to float16 as numpy does, many times faster."""
    return torch.from_numpy(rows_ND).half().numpy() if dtype == "float16" else rows_ND


def _sum_lengths(blocks: list[np.ndarray]) -> list[float]:
    """Sum the logarithms of lengths (of rows that have one), and their squares, block by block in order."""
    logs = [np.log(lengths_N[lengths_N > 0]) for lengths_N in blocks]
    squares = [float((each**2).sum()) for each in logs]
    return [sum(map(len, logs)), sum(float(each.sum()) for each in logs), sum(squares)]


def zero_rows(folder: Path) -> np.ndarray:
    """Read the numbers of all rows of an ingested source that have no direction, ascending, int64."""
    facts = stage_facts(folder)
    zeros = np.array([row for each in facts for row in each["zero_rows"]], dtype=np.int64)
    return np.union1d(zeros, bad_rows(folder))


def bad_rows(folder: Path) -> np.ndarray:
    """Read the numbers of the rows with NaN or missing values, which have label -1, ascending, int64."""
    return np.array([row for each in stage_facts(folder) for row in each.get("bad_rows", ())], dtype=np.int64)


def length_spread(folder: Path) -> float:
    """Tell by which factor lengths of an ingested source's rows typically differ: e to the deviation of their logs."""
    sums = np.array([each.get("lengths", (0, 0.0, 0.0)) for each in stage_facts(folder)]).sum(axis=0)
    if sums[0] < 2:
        return 1.0
    mean = sums[1] / sums[0]
    return float(np.exp(np.sqrt(max(0.0, sums[2] / sums[0] - mean**2))))


def usable_rows(folder: Path, num_rows: int) -> np.ndarray | None:
    """Tell which rows have a direction, bool (N,), or ``None`` if all have."""
    zeros = zero_rows(folder)
    if not len(zeros):
        return None
    usable = np.ones(num_rows, dtype=np.bool_)
    usable[zeros] = False
    return usable


def row_column(folder: Path, column: str) -> Any:
    """Read the ``id`` or ``item`` column of an ingested source as an Arrow chunked array; ``None`` if it has none."""
    return read_joined(table_parts(folder, "rows"), column)
