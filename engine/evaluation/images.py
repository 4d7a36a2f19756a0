"""Pictures as data URIs, so that a report is one file: PNG by the standard library alone."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


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


def image_data_uri(path: str | Path, max_bytes: int = 100_000) -> str | None:
    """Read a PNG or JPEG file as a data URI; ``None`` if it is not there, is no such picture, or exceeds the limit."""
    try:
        file = Path(path)
        if not file.is_file() or file.stat().st_size > max_bytes:
            return None
        content = file.read_bytes()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    for signature, kind in _SIGNATURES.items():
        if content.startswith(signature):
            return _data_uri(kind, content)
    return None


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
