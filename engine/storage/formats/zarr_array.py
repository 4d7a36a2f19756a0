"""Vectors in a zarr (v2 or v3) array, or in one array of a group."""

from __future__ import annotations

import math
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from engine.errors import DataError
from engine.storage.formats.binary import PREFERRED_NAMES
from engine.storage.formats.sources import Vectors, check_matrix, check_promise
from engine.storage.formats.zarr_codecs import METADATA_FILES, check_codecs
from engine.storage.paths import below, check_file, lies_there

_MARKERS = ("zarr.json", ".zarray", ".zgroup")
_METADATA = (*_MARKERS, ".zattrs", ".zmetadata")
_METADATA_BYTES = 64 << 20
_MAX_KEPT_BYTES = 64 << 20
_TOGETHER_BYTES = 32 << 20


class ZarrVectors:
    """A ``Part`` that is a zarr array.

    It keeps the rows that it decoded last, up to 64 MiB, so that consecutive blocks decode a chunk once; a larger chunk
    is decoded again for each block. Small chunks are decoded several at a time, on zarr's threads. An array with a
    missing chunk is refused, because zarr would read its rows as the fill value.
    """

    def __init__(self, path: Path, name: str | None) -> None:
        _check_metadata(path)
        try:
            opened = zarr.open(str(path), mode="r")
            self._array = opened if isinstance(opened, zarr.Array) else _choose_array(path, opened, name)
            stored = self._array.metadata.zarr_format == 3 and self._array.shards
            stored = stored or self._array.chunks
        except DataError:
            raise
        except Exception as error:  # damaged metadata makes zarr raise nearly anything
            raise DataError(f"{path}: not a readable zarr array or group: {error}") from error
        if isinstance(opened, zarr.Array) and name is not None:
            raise DataError(f"{path}: is a zarr array, not a group, so it has no array {name!r}; leave --column out")
        self.path = path
        self.num_rows, self.dim, self.dtype = check_matrix(path, self._array.shape, np.dtype(self._array.dtype))
        chunk_rows = self._array.chunks[0]
        chunk_bytes = chunk_rows * self.dim * self.dtype.itemsize
        self._files = self._check_chunks(stored)
        self._otherwise = _filled_otherwise(self._array) if stored != self._array.chunks else None
        self._keeps = chunk_bytes <= _MAX_KEPT_BYTES
        self._kept_rows = chunk_rows * max(1, _TOGETHER_BYTES // chunk_bytes) if self._keeps else 0
        self._kept_start, self._kept = 0, np.empty((0, self.dim), self.dtype)
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> Vectors:
        if not self._keeps or start == stop:
            return self._decode(start, stop)
        block = np.empty((stop - start, self.dim), self.dtype)
        with self._lock:
            row = start
            while row < stop:
                if not self._kept_start <= row < self._kept_start + len(self._kept):
                    first = row - row % self._kept_rows
                    self._kept = self._decode(first, min(first + self._kept_rows, self.num_rows))
                    self._kept_start = first
                end = min(stop, self._kept_start + len(self._kept))
                block[row - start : end - start] = self._kept[row - self._kept_start : end - self._kept_start]
                row = end
        return block

    def files(self) -> list[Path]:
        """Return the metadata and chunk files of the array, sorted."""
        return list(self._files)

    def _check_chunks(self, stored: tuple[int, ...]) -> list[Path]:
        """Return the array's files. Raises ``DataError`` for a chunk or shard that is missing or far too small."""
        folder = below(self.path, self._array.path) if self._array.path else self.path
        files = [folder / name for name in _METADATA if lies_there(folder / name)]
        item_bytes = np.dtype(self._array.dtype).itemsize
        rows, columns = (-(-size // max(part, 1)) for size, part in zip(self._array.shape, stored, strict=True))
        num_bytes = 0
        for place in ((row, column) for row in range(rows) for column in range(columns)):
            key = self._array.metadata.encode_chunk_key(place)
            if not lies_there(folder / key):
                raise DataError(
                    f"{folder}: chunk {key} is missing, and zarr would read its rows as the fill value; copy the array "
                    f"again, or, if they are so, write it with write_empty_chunks=True"
                )
            files.append(check_file(folder / key))
            size = files[-1].stat().st_size
            check_promise(files[-1], math.prod(stored) * item_bytes, size)
            num_bytes += size
        check_promise(folder, math.prod(self._array.shape) * item_bytes, num_bytes)
        return sorted(files)

    def _decode(self, start: int, stop: int) -> Vectors:
        try:
            block = np.asarray(self._array[start:stop])
            again = block if self._otherwise is None else np.asarray(self._otherwise[start:stop])
        except Exception as error:  # each codec has errors of its own
            raise DataError(f"{self.path}: rows {start}..{stop} cannot be read: {error}") from error
        unlike = (block != again) & ((block == block) | (again == again))  # NaN in both arrays is NaN in the file
        if unlike.any():
            row = start + int(np.argmax(unlike.any(axis=1)))
            raise DataError(
                f"{self.path}: row {row} is in a part of a shard that is missing, and zarr would read it as the fill "
                f"value; copy the array again, or, if it is so, write it with write_empty_chunks=True"
            )
        return block.astype(self.dtype, copy=False)


def is_zarr(path: Path) -> bool:
    """Tell whether the folder is a zarr array or group."""
    return any((path / marker).is_file() for marker in _MARKERS)


def _check_metadata(path: Path) -> None:
    """Refuse metadata (of a group or its arrays) that is no regular file, is too long, or names an unknown codec."""
    for folder in (path, *(Path(entry.path) for entry in os.scandir(path) if os.path.isdir(entry.path))):
        for name in _METADATA:
            if lies_there(folder / name) and check_file(folder / name).stat().st_size > _METADATA_BYTES:
                raise DataError(f"{folder / name}: is longer than {_METADATA_BYTES:,} bytes; expected zarr metadata")
            if name in METADATA_FILES and lies_there(folder / name):
                check_codecs(folder / name)


def _filled_otherwise(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array with another fill value, which shows in missing parts of a shard: NaN, or another number."""
    dtype = np.dtype(array.dtype)
    other = np.nan if dtype.kind == "f" else (1 if array.metadata.fill_value == 0 else 0)
    metadata = replace(array.metadata, fill_value=dtype.type(other))
    return zarr.Array(zarr.AsyncArray(metadata, array.store_path))


def _choose_array(path: Path, group: zarr.Group, name: str | None) -> zarr.Array[Any]:
    arrays = dict(group.arrays())
    if name is None:
        candidates = list(arrays) if len(arrays) == 1 else [known for known in PREFERRED_NAMES if known in arrays]
        name = candidates[0] if candidates else None
    if name is None:
        raise DataError(
            f"{path}: cannot tell which array of the group to read: it has {', '.join(sorted(arrays)) or 'none'}; "
            f"choose one with --column"
        )
    if name not in arrays:
        raise DataError(f"{path}: has no array {name!r}; it has {', '.join(sorted(arrays)) or 'none'}")
    return arrays[name]
