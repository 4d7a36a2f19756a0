"""Bits packed eight to a number, as quantised embeddings are stored: unpacked to 1 and -1, or found and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.errors import DataError
from engine.storage.formats.sources import Part

Bits = Literal["ubinary", "binary", "numbers"]
_OFFSETS = {"ubinary": 0, "binary": 128}  # what is added to a stored number to give the byte
_LOOKED_AT = 256  # rows
_FEWEST_BYTES = 2_048
_EVEN = 0.2  # furthest that the share of ones of a packed bit is from one half
_UNRELATED = 0.15  # largest correlation between the two highest bits of a packed byte; numbers have more


class UnpackedBits:
    """The rows of another part, whose numbers are bytes of eight bits each, the highest first (``numpy.packbits``).

    ``ubinary``: bytes are stored as they are, 0 to 255. ``binary``: less 128. A bit is read as 1 or -1.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, part: Part, bits: str) -> None:
        self._part, self._bits = part, bits
        self.path: Path = part.path
        self.num_rows, self.dim = part.num_rows, 8 * part.dim

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Return rows (stop - start, dim) float32; raises ``DataError`` for what is no byte."""
        values = self._part.read(start, stop).astype(np.float32) + _OFFSETS[self._bits]
        wrong = ~((values >= 0) & (values <= 255) & (values == np.rint(values))).all(axis=1)
        if wrong.any():
            least = -_OFFSETS[self._bits]
            raise DataError(
                f"{self.path}, row {start + int(np.argmax(wrong))}: --bits {self._bits} expects whole numbers from "
                f"{least} to {least + 255}; leave --bits out if these are no packed bits"
            )
        return np.unpackbits(values.astype(np.uint8), axis=1).astype(np.float32) * 2 - 1


def refuse_packed(rows_nD: np.ndarray[Any, Any], path: str) -> None:
    """Raise ``DataError`` if the first rows of a source are packed bits, which say nothing as numbers.

    In a packed byte each of the eight bits is as often 1 as 0, and none tells of another. In a number the highest bits
    do, because values crowd around a middle.
    """
    values = np.asarray(rows_nD[:_LOOKED_AT], np.float32)
    if values.size < _FEWEST_BYTES or not (values == np.rint(values)).all():
        return
    low, high = float(values.min()), float(values.max())
    kind = "ubinary" if low >= 0 and high <= 255 else "binary" if low >= -128 and high <= 127 else None
    if kind is None or high - low < 200:
        return
    ones = np.unpackbits((values + _OFFSETS[kind]).astype(np.uint8).reshape(-1, 1), axis=1)
    if (np.abs(ones.mean(axis=0) - 0.5) < _EVEN).all() and abs(np.corrcoef(ones[:, 0], ones[:, 1])[0, 1]) < _UNRELATED:
        raise DataError(
            f"{path}: its {values.shape[1]} numbers a row look like packed bits, eight to a number, which are no "
            f"vectors; read them with --bits {kind}, or say that they are numbers with --bits numbers"
        )
