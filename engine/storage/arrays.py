"""Uncompressed zarr v3 arrays in chunks of rows, so that a chunk file holds the rows' bytes.

Any zarr reader opens them. A task writes whole chunks of ``CHUNK_ROWS`` rows, each as an atomic file. A reader maps the
chunk files as one contiguous read-only array, without a copy, because kernels gather rows at random.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import zarr
from numpy.typing import DTypeLike
from pydantic import BaseModel, ConfigDict, Field

from engine.errors import DataError
from engine.storage.manifest import OutputFile, bytes_checksum, write_atomic
from engine.storage.owned import RESUME, FileKind, Rows, read_owned
from engine.storage.paths import os_reason
from engine.units import CHUNK_ROWS

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value


def create_array(folder: Path, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> OutputFile:
    """Write the zarr metadata of an array unless it exists. Several processes may do so at once."""
    path = folder / name / "zarr.json"
    store = zarr.storage.MemoryStore()
    zarr.create_array(
        store,
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=(CHUNK_ROWS, *shape[1:]),
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
    )
    metadata = store._store_dict["zarr.json"].to_bytes()
    if not path.is_file() or path.read_bytes() != metadata:
        write_atomic(path, lambda stream: stream.write(metadata))
    return OutputFile(f"{name}/zarr.json", len(metadata), bytes_checksum(metadata))


def write_rows(folder: Path, name: str, start: int, rows: np.ndarray) -> list[OutputFile]:
    """Write rows from global row ``start`` (a multiple of ``CHUNK_ROWS``) as whole chunks.

    Only the array's last chunk may be short; on disk it is padded with zeros, as zarr does.
    """
    shape, dtype = _metadata(folder / name)
    stop = start + len(rows)
    whole = start % CHUNK_ROWS == 0 and (stop == shape[0] or (stop < shape[0] and stop % CHUNK_ROWS == 0))
    if not whole or rows.shape[1:] != shape[1:]:
        raise ValueError(f"rows {start}..{stop} of shape {rows.shape} are not whole chunks of {folder / name} {shape}")
    outputs = []
    for begin in range(start, stop, CHUNK_ROWS):
        chunk = np.ascontiguousarray(rows[begin - start : begin - start + CHUNK_ROWS], dtype=dtype)
        padding = (CHUNK_ROWS - len(chunk)) * prod(shape[1:]) * dtype.itemsize
        key = "/".join(["c", str(begin // CHUNK_ROWS), *("0" for _ in shape[1:])])
        path = folder / name / key
        data = chunk.data.cast("B")
        written = write_atomic(path, lambda stream, pieces=(data, bytes(padding)): stream.writelines(pieces))  # type: ignore[misc]
        outputs.append(OutputFile(f"{name}/{key}", written.num_bytes, written.checksum))
    return outputs


def map_array(folder: Path, name: str) -> np.ndarray:
    """Map a complete array read-only as one contiguous ndarray, without copying.

    Raises ``DataError`` if a chunk is missing or has the wrong size. The pages are file-mapped, so they count as the
    system's cache and not as memory of the process.
    """
    shape, dtype = _metadata(folder / name)
    row_bytes = prod(shape[1:]) * dtype.itemsize
    chunk_bytes = CHUNK_ROWS * row_bytes
    num_chunks = -(-shape[0] // CHUNK_ROWS)
    suffix = "/0" * (len(shape) - 1)
    paths = []
    for number in range(num_chunks):  # stops at the first missing chunk, because damaged metadata may promise very many
        paths.append(folder / name / f"c/{number}{suffix}")
        if not paths[-1].is_file() or paths[-1].stat().st_size != chunk_bytes:
            raise DataError(f"{paths[-1]}: missing or truncated chunk, expected {chunk_bytes:,} bytes; resume the run")
    if chunk_bytes % mmap.PAGESIZE:
        flat = np.concatenate([np.fromfile(path, dtype) for path in paths]) if paths else np.empty(0, dtype)
        array = flat[: prod(shape)].reshape(shape)
        array.flags.writeable = False
        return array
    return _map_files(paths, chunk_bytes, shape, dtype)


def _map_files(paths: list[Path], chunk_bytes: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    total = chunk_bytes * len(paths)
    base = _check(_LIBC.mmap(None, total, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1, 0), paths[0])
    try:
        for i, path in enumerate(paths):
            handle = os.open(path, os.O_RDONLY)
            try:
                address = base + i * chunk_bytes
                _check(_LIBC.mmap(address, chunk_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, handle, 0), path)
            finally:
                os.close(handle)
    except OSError as error:
        _LIBC.munmap(base, total)
        raise DataError(f"{path}: cannot be mapped: {os_reason(error)}") from error
    buffer = (ctypes.c_char * total).from_address(base)
    weakref.finalize(buffer, _LIBC.munmap, base, total)
    array: np.ndarray = np.frombuffer(memoryview(buffer).cast("B"), dtype=dtype, count=prod(shape)).reshape(shape)
    array.flags.writeable = False
    return array


def _check(address: int | None, path: Path) -> int:
    if address is None or address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return address


class _Metadata(BaseModel):
    """The keys of ``zarr.json`` that are read; zarr writes more."""

    model_config = ConfigDict(strict=True)

    shape: Annotated[list[Rows], Field(min_length=1, max_length=2)]
    data_type: Literal[
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ]


_METADATA = FileKind(_Metadata, RESUME, sealed=False)


def _metadata(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if not (path / "zarr.json").is_file():
        raise DataError(f"{path} holds no array: zarr.json is missing")
    tree = read_owned(path / "zarr.json", _METADATA)
    return tuple(tree["shape"]), np.dtype(tree["data_type"]).newbyteorder("<")
