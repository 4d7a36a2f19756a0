"""Pictures in the cells of a Parquet or Arrow column: bytes, or Hugging Face's records of bytes and a path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from engine.storage.formats.parquet_arrow import TableColumn
from engine.storage.picture_kinds import picture_kind

NAMES = ("image", "img", "picture", "photo", "thumbnail")
_READ_ON_ROWS = 512  # so few rows further on are read through, because another place in the file costs more
_PEEKED_ROWS = 64


def may_hold_pictures(kind: Any) -> bool:
    """Tell whether a column of this type can hold pictures."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return bool(index >= 0 and _is_binary(kind.field(index).type))
    return _is_binary(kind)


class PictureColumn:
    """Items that stand for the cells of a column of pictures: ``image[7]`` is row 7 of the column ``image``.

    A run keeps these names alone. The pictures stay in the source until a report or a review shows them.
    """

    def __init__(self, column: TableColumn) -> None:
        self._column = column
        self._item = re.compile(re.escape(column.column) + r"\[([0-9]{1,10})\]")

    def holds_pictures(self) -> bool:
        """Tell whether the first cells that are filled hold pictures, or paths, and not texts stored as bytes."""
        values = self._values(0, min(_PEEKED_ROWS, self._column.num_rows))
        return any(isinstance(each, str) or picture_kind(each) for each in values if each is not None)

    def items(self, start: int, stop: int) -> list[str]:
        return [f"{self._column.column}[{row}]" for row in range(start, stop)]

    def pictures(self, items: Iterable[str]) -> dict[str, bytes | str]:
        """Return what the cells hold that are named: a picture's bytes, or the path of one."""
        named = {int(match[1]): item for item in items if (match := self._item.fullmatch(item))}
        found: dict[str, bytes | str] = {}
        at = 0
        for row in sorted(row for row in named if row < self._column.num_rows):
            start = at if 0 <= row - at <= _READ_ON_ROWS else row
            value = self._values(start, row + 1)[-1]
            at = row + 1
            if value is not None:
                found[named[row]] = value
        return found

    def _values(self, start: int, stop: int) -> list[bytes | str | None]:
        cells = (cell for piece in self._column.read(start, stop) for cell in piece.array)
        return [_content(cell.as_py()) for cell in cells]


def _content(cell: Any) -> bytes | str | None:
    if isinstance(cell, dict):
        return cell["bytes"] or cell.get("path") or None
    return cell or None


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
