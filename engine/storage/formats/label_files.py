"""Readers of labels: one integer or name per row, -1 for a row without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import abspath
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from engine.errors import DataError
from engine.storage.formats.binary import RawRows, open_npy, open_npz
from engine.storage.formats.label_codes import Labels, check_labels, label_codes
from engine.storage.formats.parquet_arrow import TABLE_SUFFIXES, TableColumn, open_table
from engine.storage.paths import check_file, explain_reading

LABEL_NAMES = ("label", "labels", "identity", "identities", "cluster", "clusters", "data")
_TEXT_SUFFIXES = (".meta", ".txt")
_NAME_BYTES = 1 << 12  # of a text, by which it is told whether it holds names
_PIECE_BYTES = 1 << 23  # of a text; a line of labels is shorter


def read_labels(path: str | Path, num_rows: int | None = None, *, column: str | None = None) -> Labels:
    """Read labels as int64 (N,), in row order.

    ``.meta`` and ``.txt``: one integer, or one name, per line. ``.npy`` and ``.npz``: (N,) or (N, 1). Parquet, Arrow
    and CSV: a column of integers or names. Floats that are whole numbers are accepted; names are numbered in the order
    of their first row. ``column`` names the array or column; the default is the only one, or a usual name such as
    ``label``. Raises ``DataError`` naming the line or row of a value that is not an integer of at least -1, and if
    there are not ``num_rows`` labels. Peak memory: twice the labels, and the file; of names also their texts.
    """
    path = check_file(Path(abspath(path)), "file of labels")
    suffix = path.suffix.lower()
    if column is not None and suffix in (*_TEXT_SUFFIXES, ".npy"):
        raise DataError(f"{path}: column={column!r} was given, but this format has nothing to choose: leave it out")
    what = "row"
    if suffix in _TEXT_SUFFIXES:
        labels, what = _parse_text(path), "line"
    elif suffix == ".npy":
        labels = _read_array(path, open_npy(path), num_rows)
    elif suffix == ".npz":
        labels = _read_array(path, open_npz(path, column, LABEL_NAMES), num_rows)
    elif suffix in TABLE_SUFFIXES:
        labels = _read_column(path, column)
    else:
        raise DataError(
            f"{path}: not a known format of labels; supported: .meta, .txt, .npy, .npz, .parquet, .arrow, .csv"
        )
    if len(labels):
        _check_number(path, len(labels), num_rows)
    return check_labels(path, labels, what)


def _names_of_text(path: Path) -> Labels | None:
    """Number the names of a text, of which each has a letter; ``None`` for a text of integers, or of both."""
    with explain_reading(path), path.open("rb") as file:
        head = file.read(_NAME_BYTES).decode("utf-8", "replace")
    first = next((line.strip() for line in head.splitlines() if line.strip()), "")
    if not _is_name(first) and first.strip() != "-1":
        return None
    with explain_reading(path):
        lines = path.read_text("utf-8", errors="replace").rstrip("\r\n").split("\n")
    names = [line.strip() for line in lines]
    known = [name for name in names if name not in ("", "-1")]
    if not known or not all(map(_is_name, known)):
        return None  # the parser of integers then names the line that is none
    return label_codes(path, np.array(names, dtype=str))


def _is_name(text: str) -> bool:
    """Tell whether a line is a name: printable, with a letter, and UTF-8 (which "replace" marked where it was not)."""
    return text.isprintable() and "\ufffd" not in text and any(map(str.isalpha, text))


def _parse_text(path: Path) -> Labels:
    if (names := _names_of_text(path)) is not None:
        return names
    found, num_lines, blank = [np.empty(0, np.int64)], 0, False
    for piece in _whole_lines(path):
        text = np.frombuffer(piece, np.uint8)
        labels = np.empty(piece.count(b"\n") + 1, np.int64)
        parsed, bad_start, bad_stop, blank = _parse_lines(text, labels, blank)
        num_lines += parsed
        if bad_start < 0 and len(piece) > _PIECE_BYTES and b"\n" not in piece:
            num_lines, bad_start, bad_stop = num_lines - parsed, 0, len(piece)
        if bad_start >= 0:
            shown = piece[bad_start : min(bad_stop, bad_start + 40)].decode("utf-8", "replace")
            raise DataError(f"{path}: line {num_lines + 1} is {shown!r}, expected one integer")
        found.append(labels[:parsed].copy())
    return np.concatenate(found)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yield a text in pieces of whole lines. A line longer than a piece comes alone and is cut."""
    rest = b""
    with explain_reading(path), path.open("rb") as file:
        while read := file.read(_PIECE_BYTES):
            lines, end, rest = (rest + read).rpartition(b"\n")
            if end:
                yield lines + end
            if len(rest) > _PIECE_BYTES:
                yield rest
                return
    if rest:
        yield rest


@numba.njit(nogil=True, cache=True)
def _parse_lines(text: Any, out: Any, after_blank: bool) -> tuple[int, int, int, bool]:
    """Parse one integer per line; blank lines may stand at the end of the text only.

    Returns the lines parsed, the bounds of the bad line, and whether there was a blank line. ``after_blank``: an
    earlier piece had a blank line.
    """
    num_lines = 0
    at = 0
    blank = 0 if after_blank else -1  # start of the first blank line seen
    size = len(text)
    while at < size:
        start = at
        value = np.int64(0)
        digits = 0
        negative = False
        state = 0  # 0: before the number, 1: in it, 2: after it, 3: not a number
        while at < size and text[at] != 0x0A:
            char = text[at]
            at += 1
            if char == 0x20 or char == 0x09 or char == 0x0D:
                if state == 1:
                    state = 2
            elif 0x30 <= char <= 0x39 and state <= 1:
                state = 1
                digits += 1
                digit = np.int64(char) - 0x30
                if value > (np.int64(9223372036854775807) - digit) // 10:
                    state = 3
                else:
                    value = value * 10 + digit
            elif (char == 0x2D or char == 0x2B) and state == 0:
                state = 1
                negative = char == 0x2D
            else:
                state = 3
        stop = at
        at += 1
        if state == 0:
            if blank < 0:
                blank = start
            continue
        if blank >= 0:
            return num_lines, blank, blank, True
        if state == 3 or digits == 0:
            return num_lines, start, stop, False
        out[num_lines] = -value if negative else value
        num_lines += 1
    return num_lines, -1, -1, blank >= 0


def _read_column(path: Path, column: str | None) -> Labels:
    table = open_table(path)
    if column is None:
        names = table.schema.names
        integers = [field.name for field in table.schema if pa.types.is_integer(field.type)]
        candidates = [name for name in LABEL_NAMES if name in names] or integers or (names if len(names) == 1 else [])
        if not candidates or (candidates == integers and len(integers) > 1):
            raise DataError(f"{path}: cannot tell which column holds the labels: it has {', '.join(names)}; name it")
        column = candidates[0]
    values = TableColumn([table], column)
    chunks = [piece.array for piece in values.read(0, values.num_rows)]
    return label_codes(f"{path}: column {column!r}", pa.chunked_array(chunks, values.type))


def _read_array(path: Path, rows: RawRows, num_rows: int | None) -> Labels:
    if rows.shape[1:] not in ((), (1,)):
        raise DataError(f"{path}: expected one label per row, shape (N,) or (N, 1), got shape {rows.shape}")
    if rows.dtype.kind not in "iufU":
        raise DataError(f"{path}: holds {rows.dtype}, expected integers or names")
    _check_number(path, rows.num_rows, num_rows)
    return label_codes(path, rows.read(0, rows.num_rows).reshape(-1))


def _check_number(path: Path, got: int, expected: int | None) -> None:
    if expected is not None and got != expected:
        raise DataError(f"{path}: expected {expected} labels, one per row of the vectors, got {got}")
