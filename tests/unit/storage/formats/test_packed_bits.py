"""Packed bits: unpacked where that is asked for, refused where they would be read as numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import DataError
from engine.steps.source import describe_source
from engine.storage.formats.packed_bits import refuse_packed
from engine.storage.formats.registry import open_source


def embeddings() -> np.ndarray:
    random = np.random.default_rng(3)
    return random.normal(size=(40, 512))[np.arange(300) % 40] + 0.6 * random.normal(size=(300, 512))


def packed(kind: str) -> np.ndarray:
    found = np.packbits(embeddings() > 0, axis=1)
    return found if kind == "ubinary" else (found.astype(np.int16) - 128).astype(np.int8)


@pytest.mark.parametrize("kind", ["ubinary", "binary"])
def test_packed_bits_are_unpacked_where_asked_and_else_refused(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "x.npy", packed(kind))
    source = open_source(tmp_path / "x.npy", bits=kind)
    assert (source.num_rows, source.dim) == (300, 512)
    np.testing.assert_array_equal(source.read(7, 20), np.where(embeddings() > 0, 1, -1)[7:20])
    digests = {describe_source(tmp_path / "x.npy", bits=bits).digest for bits in (None, "ubinary", "binary")}
    assert len(digests) == 3
    with pytest.raises(DataError, match=f"look like packed bits.*--bits {kind}, or say that .* --bits numbers"):
        refuse_packed(packed(kind).astype(np.float32), "x.npy")


def test_numbers_are_not_taken_for_packed_bits(tmp_path: Path) -> None:
    rows = embeddings()
    quantised = np.clip(np.round((rows + 4) / 8 * 255), 0, 255).astype(np.uint8)
    signed = np.clip(np.round(rows / np.abs(rows).max() * 127), -128, 127).astype(np.int8)
    wide = np.clip(np.round(rows * 40), -128, 127).astype(np.int8)
    pixels = np.where(rows > 1, np.clip(rows * 80, 0, 255), 0).astype(np.uint8)
    for numbers in (quantised, signed, wide, pixels, rows, (rows > 0).astype(np.uint8)):
        refuse_packed(numbers.astype(np.float32), "x.npy")


def test_what_is_no_byte_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0, 2], [3, 255.5]], np.float32))
    with pytest.raises(DataError, match=r"x\.npy, row 1: --bits ubinary expects whole numbers from 0 to 255"):
        open_source(tmp_path / "x.npy", bits="ubinary").read(0, 2)
