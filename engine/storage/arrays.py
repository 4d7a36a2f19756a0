"""Row-chunked zarr v3 arrays, uncompressed, so that a chunk file is its bytes.

Any zarr reader opens them. A task writes whole chunks of ``CHUNK_ROWS`` rows, each an atomic file; readers get one
contiguous read-only array, mapped over the chunk files without a copy, for kernels that gather rows at random.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike

from engine.errors import DataError
from engine.plan import CHUNK_ROWS
from engine.storage.manifest import OutputFile, bytes_checksum, read_json, write_atomic

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value


def create_array(folder: Path, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> OutputFile:
    """Write the zarr metadata of an array unless it is there already (safe from several processes)."""
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
    """Write rows from global row ``start`` (a multiple of ``CHUNK_ROWS``) as whole chunks; the last may be short.

    Only the array's last chunk may be incomplete; it is padded with zeros on disk, as zarr does.
    """
    shape, dtype = _metadata(folder / name)
    stop = start + len(rows)
    whole = start % CHUNK_ROWS == 0 and (stop == shape[0] or (stop < shape[0] and stop % CHUNK_ROWS == 0))
    if not whole or rows.shape[1:] != shape[1:]:
        raise ValueError(f"rows {start}..{stop} of shape {rows.shape} are not whole chunks of {folder / name} {shape}")
    outputs = []
    for begin in range(start, stop, CHUNK_ROWS):
        chunk = np.ascontiguousarray(rows[begin - start : begin - start + CHUNK_ROWS], dtype=dtype)
        padding = (CHUNK_ROWS - len(chunk)) * int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        key = "/".join(["c", str(begin // CHUNK_ROWS), *("0" for _ in shape[1:])])
        path = folder / name / key
        data = chunk.data.cast("B")
        written = write_atomic(path, lambda stream, pieces=(data, bytes(padding)): stream.writelines(pieces))  # type: ignore[misc]
        outputs.append(OutputFile(f"{name}/{key}", written.num_bytes, written.checksum))
    return outputs


def map_array(folder: Path, name: str) -> np.ndarray:
    """Map a complete array read-only as one contiguous ndarray, without copying.

    Raises ``DataError`` if a chunk is missing or of the wrong size. The pages are file-mapped: they are the system's
    cache, not the process's memory.
    """
    shape, dtype = _metadata(folder / name)
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    chunk_bytes = CHUNK_ROWS * row_bytes
    num_chunks = -(-shape[0] // CHUNK_ROWS)
    suffix = "/0" * (len(shape) - 1)
    paths = [folder / name / f"c/{i}{suffix}" for i in range(num_chunks)]
    for path in paths:
        if not path.is_file() or path.stat().st_size != chunk_bytes:
            raise DataError(f"{path}: missing or truncated chunk, expected {chunk_bytes:,} bytes; resume the run")
    if chunk_bytes % mmap.PAGESIZE:
        flat = np.concatenate([np.fromfile(path, dtype) for path in paths]) if paths else np.empty(0, dtype)
        array = flat[: int(np.prod(shape, dtype=np.int64))].reshape(shape)
        array.flags.writeable = False
        return array
    return _map_files(paths, chunk_bytes, shape, dtype)


def _map_files(paths: list[Path], chunk_bytes: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    total = chunk_bytes * len(paths)
    base = _check(_LIBC.mmap(None, total, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1, 0), paths[0])
    for i, path in enumerate(paths):
        handle = os.open(path, os.O_RDONLY)
        try:
            address = base + i * chunk_bytes
            _check(
                _LIBC.mmap(address, chunk_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, handle, 0),
                path,
            )
        finally:
            os.close(handle)
    buffer = (ctypes.c_char * total).from_address(base)
    weakref.finalize(buffer, _LIBC.munmap, base, total)
    array: np.ndarray = np.frombuffer(
        memoryview(buffer).cast("B"), dtype=dtype, count=int(np.prod(shape, dtype=np.int64))
    ).reshape(shape)
    array.flags.writeable = False
    return array


def _check(address: int | None, path: Path) -> int:
    if address is None or address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return address


def _metadata(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if not (path / "zarr.json").is_file():
        raise DataError(f"{path} holds no array: zarr.json is missing")
    tree = read_json(path / "zarr.json")
    return tuple(tree["shape"]), np.dtype(tree["data_type"]).newbyteorder("<")
