"""Vectors in a zarr (v2 or v3) array, or in one array of a group."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from engine.errors import DataError
from engine.storage.formats.binary import PREFERRED_NAMES
from engine.storage.formats.sources import Vectors, check_matrix

_MARKERS = ("zarr.json", ".zarray", ".zgroup")
_MAX_KEPT_BYTES = 64 << 20
_TOGETHER_BYTES = 32 << 20


class ZarrVectors:
    """A ``Part`` that is a zarr array. Keeps the last rows of chunks it decoded, up to 64 MiB.

    So consecutive blocks smaller than a chunk decode it once; larger chunks are decoded again for each block. Small
    chunks are decoded several at a time, on zarr's threads.
    """

    def __init__(self, path: Path, name: str | None) -> None:
        try:
            opened = zarr.open(str(path), mode="r")
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise DataError(f"{path}: not a readable zarr array or group: {error}") from error
        self._array = opened if isinstance(opened, zarr.Array) else _choose_array(path, opened, name)
        if isinstance(opened, zarr.Array) and name is not None:
            raise DataError(f"{path}: is a zarr array, not a group, so it has no array {name!r}; leave --column out")
        self.path = path
        self.num_rows, self.dim, self.dtype = check_matrix(path, self._array.shape, np.dtype(self._array.dtype))
        chunk_rows = self._array.chunks[0]
        chunk_bytes = chunk_rows * self.dim * self.dtype.itemsize
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
        return sorted(p for p in (self.path / self._array.path).rglob("*") if p.is_file())

    def _decode(self, start: int, stop: int) -> Vectors:
        try:
            return np.asarray(self._array[start:stop]).astype(self.dtype, copy=False)
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise DataError(f"{self.path}: rows {start}..{stop} cannot be read: {error}") from error


def is_zarr(path: Path) -> bool:
    """Tell whether the folder is a zarr array or group."""
    return any((path / marker).is_file() for marker in _MARKERS)


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
