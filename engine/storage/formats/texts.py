"""Text files of one line per row, which are read without holding the whole file in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import DataError
from engine.storage.paths import check_file, lies_there

ITEMS_FILE = "items.txt"
_LINES_PER_MARK = 1024
_CHUNK_BYTES = 1 << 22
_LINE_BYTES = 1 << 20  # of one item at most


class TextNames:
    """Items (and ids, if ``as_ids``) from the lines of a UTF-8 text file."""

    def __init__(self, path: Path, num_rows: int, *, as_ids: bool = False) -> None:
        self._path = path
        self._num_rows = num_rows
        self._as_ids = as_ids
        self._marks: npt.NDArray[np.int64] | None = None  # offset of every 1024th line
        self._lock = threading.Lock()

    def ids(self) -> pa.ChunkedArray | None:
        if not self._as_ids:
            return None
        step = 1 << 18
        chunks = [
            pa.array(self.items(row, min(row + step, self._num_rows)), pa.string())
            for row in range(0, self._num_rows, step)
        ]
        return pa.chunked_array(chunks, pa.string())

    def items(self, start: int, stop: int) -> list[str] | None:
        with self._lock:
            if self._marks is None:
                self._marks = self._index()
        if start == stop:
            return []
        with self._path.open("rb") as file:
            file.seek(int(self._marks[start // _LINES_PER_MARK]))
            for row in range(start - start % _LINES_PER_MARK, start):
                self._text(file.readline(_LINE_BYTES + 1), row)
            return [self._text(file.readline(_LINE_BYTES + 1), row) for row in range(start, stop)]

    def pictures(self, items: Iterable[str]) -> dict[str, bytes | str]:
        return {}

    def files(self) -> list[Path]:
        return [self._path]

    def _text(self, line: bytes, row: int) -> str:
        if len(line) > _LINE_BYTES:
            raise DataError(f"{self._path}: line {row + 1} is longer than {_LINE_BYTES:,} bytes; expected one item")
        return line.decode("utf-8", "replace").rstrip("\r\n")

    def _index(self) -> npt.NDArray[np.int64]:
        marks, num_lines = line_offsets(self._path, _LINES_PER_MARK)
        if num_lines != self._num_rows:
            raise DataError(
                f"{self._path}: expected one line for each of {self._num_rows} rows, got {num_lines} lines; "
                f"correct it or move it away"
            )
        return marks


def companion_items(beside: Path, num_rows: int) -> TextNames | None:
    """Return the items of ``items.txt`` in the folder ``beside``, if there is one."""
    path = beside / ITEMS_FILE
    return TextNames(check_file(path), num_rows) if lies_there(path) else None


def line_offsets(path: Path, every: int) -> tuple[npt.NDArray[np.int64], int]:
    """Return the byte offset of every ``every``-th line, and the number of lines; the last may lack its newline."""
    marks: list[npt.NDArray[Any]] = [np.zeros(1, np.int64)]
    num_ends = at = 0
    last = b"\n"
    with check_file(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 0x0A)
            # End number n (from 1) is where line n begins.
            marks.append(at + 1 + ends[(every - 1 - num_ends) % every :: every])
            num_ends += len(ends)
            at += len(chunk)
            last = chunk[-1:]
    return np.concatenate(marks), num_ends + (last != b"\n")
