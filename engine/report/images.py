"""Pictures as data URIs, so that a report is one file."""

from __future__ import annotations

import base64
import os
import re
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from engine.installation import install_hint
from engine.report.thumbnails import can_shrink, shrink
from engine.storage.picture_kinds import picture_kind

MAX_BYTES = 100_000  # of a picture as it is
SHRUNK_BYTES = 16_000  # a larger picture becomes a thumbnail, if it can
MAX_FILE_BYTES = 64_000_000
MAX_PAGE_BYTES = 4_000_000  # of all pictures of a page
_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_DATA_URI = re.compile(r"data:image/(png|jpeg|gif|webp);base64,([A-Za-z0-9+/]+={0,2})")
_LONGEST_PATH = 4096
_TINY = 64  # pixels
_MISSING, _OUTSIDE = "missing", "outside the source's folder"


def digit_png(pixels_HW: NDArray[Any], white: float | None = None) -> str:
    """Encode a small grey picture as a PNG data URI, 8 bits per pixel, without any imaging library.

    ``pixels_HW``: any numbers >= 0; 0 is black, ``white`` (default: the largest pixel) and above is white.
    Raises ``DataError`` unless there are two dimensions and at least one pixel.
    """
    if pixels_HW.ndim != 2 or pixels_HW.size == 0:
        raise DataError(f"picture: expected pixels of shape (H, W), got {pixels_HW.shape}")
    top = float(pixels_HW.max()) if white is None else white
    grey_HW = np.clip(np.rint(pixels_HW.astype(np.float64) * (255 / top if top > 0 else 0)), 0, 255).astype(np.uint8)
    height, width = grey_HW.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line starts with its filter, 0 = none
    lines[:, 1:] = grey_HW
    content = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )
    return _data_uri("png", content)


class Pictures:
    """The pictures that a report may embed: files below ``folders``, links resolved, data URIs, cells of the source.

    A report is shown to others, and an item may come from anyone. A name such as ``../private.png`` must not put a
    file of this machine into the page. ``cells``: what the source's own column of pictures holds, by the items that
    stand for it. ``room``: bytes that all pictures may have; ``None`` means any.
    """

    def __init__(
        self, folders: Sequence[Path], cells: Callable[[Iterable[str]], Mapping[str, bytes | str]] | None = None,
        room: int | None = None,
    ) -> None:  # fmt: skip
        self._folders = [str(folder) for folder in folders]
        self._cells = cells
        self._room = room
        self._found: dict[str, str | None] = {}
        self._refused: Counter[str] = Counter()

    def fetch(self, items: Iterable[str]) -> None:
        """Find the pictures of many items, whose cells are then read in their order."""
        missing = [item for item in dict.fromkeys(items) if item not in self._found]
        cells = self._cells(missing) if self._cells is not None and missing else {}
        for item in missing:
            self._found[item] = self._find(item, cells.get(item))

    def find(self, item: str) -> str | None:
        """Return the picture that an item holds or names, as a data URI; ``None`` if the item has no picture to show.

        A relative name is tried in each folder, in order.
        """
        self.fetch([item])
        found = self._found[item]
        if found is None or self._room is None:
            return found
        if len(found) > self._room:
            self._refused["for which the page has no room"] += 1
            return None
        self._room -= len(found)
        return found

    def refused(self) -> list[str]:
        """Return at most one sentence: how many pictures were not embedded, and why."""
        if not self._refused:
            return []
        why = ", ".join(f"{count:,} {reason}" for reason, count in self._refused.items())
        elsewhere = " Name their folder with --items-root." if {_MISSING, _OUTSIDE} & set(self._refused) else ""
        return [f"Pictures that are not shown: {why}.{elsewhere}"]

    def _find(self, item: str, cell: bytes | str | None) -> str | None:
        if isinstance(cell, bytes):
            return self._embed(cell)
        if item.startswith("data:"):
            return item if is_picture(item) else None
        name = _path_of(item if cell is None else cell)
        if name is None:
            return None
        places = [os.path.realpath(os.path.join(folder, name)) for folder in self._folders]
        inside = [place for place in places if any(_lies_in(place, folder) for folder in self._folders)]
        there = [place for place in inside if os.path.lexists(place)]
        if not there:
            self._refused[_MISSING if inside else _OUTSIDE] += 1
            return None
        return self._embed(_read_file(there[0]))

    def _embed(self, content: bytes | None) -> str | None:
        kind = None if content is None else picture_kind(content)
        if content is not None and kind is not None:
            small = shrink(content) if len(content) > SHRUNK_BYTES and can_shrink() else None
            if small is not None:
                return _data_uri("jpeg", small)
            if len(content) <= MAX_BYTES:
                return _data_uri(kind, content)
            if not can_shrink():
                self._refused[f"of more than {MAX_BYTES // 1000} kB, which takes {install_hint('pictures')}"] += 1
                return None
        self._refused[f"other than whole PNG, JPEG, GIF or WebP files of up to {MAX_FILE_BYTES // 10**6} MB"] += 1
        return None


def is_tiny(uri: str) -> bool:
    """Tell whether a picture has so few pixels that they should be seen: a PNG of at most ``_TINY`` a side."""
    match = _DATA_URI.fullmatch(uri)
    if match is None or match[1] != "png":
        return False
    width, height = struct.unpack(">II", base64.b64decode(match[2][:32])[16:24])
    return bool(max(width, height) <= _TINY)


def is_picture(uri: str) -> bool:
    """Tell whether a text is a data URI of a small raster picture with the right content, and so safe as ``src``."""
    match = _DATA_URI.fullmatch(uri) if len(uri) < 2 * MAX_BYTES else None
    if match is None:
        return False
    try:
        return picture_kind(base64.b64decode(match[2])) == match[1]
    except ValueError:  # not a whole number of bytes
        return False


def _path_of(item: str) -> str | None:
    """Return the path that an item names if it looks like a picture's; ``None`` for URLs other than ``file:``."""
    if not item.lower().endswith(_SUFFIXES) or "\0" in item or len(item) > _LONGEST_PATH:
        return None
    if not item.lower().startswith("file:"):
        return None if "://" in item else item
    try:
        parts = urlsplit(item)
    except ValueError:
        return None
    return unquote(parts.path) if parts.netloc in ("", "localhost") and "\0" not in unquote(parts.path) else None


def _lies_in(place: str, folder: str) -> bool:
    return place.startswith(os.path.realpath(folder).rstrip("/") + "/")


def _read_file(place: str) -> bytes | None:
    """Read a regular file of up to ``MAX_FILE_BYTES``; open nothing else."""
    try:
        if not stat.S_ISREG(os.stat(place).st_mode):
            return None
        with open(place, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                return None
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None
    return content if len(content) <= MAX_FILE_BYTES else None


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
