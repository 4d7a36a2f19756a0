"""Uncompressed zarr v3 arrays in files of rows, so that a file holds the rows' bytes.

Any zarr reader opens them: to zarr a file is a chunk. A task writes whole files, each atomically. A reader maps the
files as one contiguous read-only array, without a copy, because kernels gather rows at random. Every file is a mapping
of the process, of which the system allows a limited number, so a large array has files of more rows (``file_rows``).
"""

from __future__ import annotations

import ctypes
import errno
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
from engine.storage.mappings import hold_map, mapped_files, raise_limit, release_map
from engine.storage.owned import RESUME, FileKind, Rows, read_owned
from engine.storage.paths import os_reason
from engine.units import CHUNK_ROWS, file_rows

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
        chunks=(file_rows(shape[0]), *shape[1:]),
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
    )
    metadata = store._store_dict["zarr.json"].to_bytes()
    if not path.is_file() or path.read_bytes() != metadata:
        write_atomic(path, lambda stream: stream.write(metadata))
    return OutputFile(f"{name}/zarr.json", len(metadata), bytes_checksum(metadata))


def write_rows(folder: Path, name: str, start: int, rows: np.ndarray) -> list[OutputFile]:
    """Write rows from global row ``start`` (a multiple of the array's rows of a file) as whole files.

    Only the array's last file may be short; on disk it is padded with zeros, as zarr does.
    """
    shape, dtype, each = _metadata(folder / name)
    stop = start + len(rows)
    whole = start % each == 0 and (stop == shape[0] or (stop < shape[0] and stop % each == 0))
    if not whole or rows.shape[1:] != shape[1:]:
        raise ValueError(f"rows {start}..{stop} of shape {rows.shape} are not whole files of {folder / name} {shape}")
    outputs = []
    for begin in range(start, stop, each):
        chunk = np.ascontiguousarray(rows[begin - start : begin - start + each], dtype=dtype)
        padding = (each - len(chunk)) * prod(shape[1:]) * dtype.itemsize
        key = "/".join(["c", str(begin // each), *("0" for _ in shape[1:])])
        path = folder / name / key
        data = chunk.data.cast("B")
        written = write_atomic(path, lambda stream, pieces=(data, bytes(padding)): stream.writelines(pieces))  # type: ignore[misc]
        outputs.append(OutputFile(f"{name}/{key}", written.num_bytes, written.checksum))
    return outputs


def map_array(folder: Path, name: str) -> np.ndarray:
    """Map a complete array read-only as one contiguous ndarray, without copying.

    Raises ``DataError`` if a chunk is missing or has the wrong size, or if the system refuses so many mappings. The
    pages are file-mapped, so they count as the system's cache and not as memory of the process.
    """
    shape, dtype, each = _metadata(folder / name)
    paths, chunk_bytes = _files(folder / name, shape, dtype, each)
    if chunk_bytes % mmap.PAGESIZE:
        flat = np.concatenate([np.fromfile(path, dtype) for path in paths]) if paths else np.empty(0, dtype)
        array = flat[: prod(shape)].reshape(shape)
    else:
        array = _map_files(paths, chunk_bytes, len(paths), shape, dtype, writable=False)
    array.flags.writeable = False
    return array


def map_extended(folder: Path, name: str, further_rows: int) -> np.ndarray:
    """Map a complete array as ``map_array`` does, with so many rows of zeros after its own, to be written in memory.

    What is written stays in this process: a page of a file is copied once it is written to, and no file changes.
    """
    shape, dtype, each = _metadata(folder / name)
    wanted = (shape[0] + further_rows, *shape[1:])
    paths, chunk_bytes = _files(folder / name, shape, dtype, each)
    if chunk_bytes % mmap.PAGESIZE:
        return np.concatenate([map_array(folder, name), np.zeros((further_rows, *shape[1:]), dtype)])
    return _map_files(paths, chunk_bytes, -(-wanted[0] // each), wanted, dtype, writable=True)


def _files(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], each: int) -> tuple[list[Path], int]:
    """List the files of an array and the bytes of each; raises ``DataError`` for one that is missing or truncated."""
    chunk_bytes = each * prod(shape[1:]) * dtype.itemsize
    suffix = "/0" * (len(shape) - 1)
    paths: list[Path] = []
    for number in range(-(-shape[0] // each)):  # stops at the first missing file: damaged metadata may promise many
        paths.append(path / f"c/{number}{suffix}")
        if not paths[-1].is_file() or paths[-1].stat().st_size != chunk_bytes:
            raise DataError(f"{paths[-1]}: missing or truncated chunk, expected {chunk_bytes:,} bytes; resume the run")
    return paths, chunk_bytes


def _map_files(
    paths: list[Path],
    chunk_bytes: int,
    num_chunks: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    writable: bool,
) -> np.ndarray:
    """Map files one after the other, each of ``chunk_bytes``, and zeros for the chunks that have no file."""
    total = chunk_bytes * num_chunks
    allowed = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    how = mmap.MAP_PRIVATE if writable else mmap.MAP_SHARED
    base = _check(_LIBC.mmap(None, total, allowed, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1, 0), paths[0])
    try:
        for i, path in enumerate(paths):
            handle = os.open(path, os.O_RDONLY)
            try:
                address = base + i * chunk_bytes
                _check(_LIBC.mmap(address, chunk_bytes, allowed, how | _MAP_FIXED, handle, 0), path)
            finally:
                os.close(handle)
    except OSError as error:
        _LIBC.munmap(base, total)
        if error.errno == errno.ENOMEM:
            others = mapped_files()
            raise DataError(
                f"{path}: the system refuses to map file {i + 1:,} of {len(paths):,}, with {others:,} files of other "
                f"arrays mapped; {raise_limit(2 * (len(paths) + others))}"
            ) from error
        raise DataError(f"{path}: cannot be mapped: {os_reason(error)}") from error
    buffer = (ctypes.c_char * total).from_address(base)
    weakref.finalize(buffer, _unmap, base, total)
    hold_map(base, len(paths))
    array: np.ndarray = np.frombuffer(memoryview(buffer).cast("B"), dtype=dtype, count=prod(shape)).reshape(shape)
    return array


def _unmap(base: int, total: int) -> None:
    _LIBC.munmap(base, total)
    release_map(base)


def _check(address: int | None, path: Path) -> int:
    if address is None or address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return address


class _Chunks(BaseModel):
    model_config = ConfigDict(strict=True)

    chunk_shape: Annotated[list[Rows], Field(min_length=1, max_length=2)]


class _Grid(BaseModel):
    model_config = ConfigDict(strict=True)

    configuration: _Chunks


class _Metadata(BaseModel):
    """The keys of ``zarr.json`` that are read; zarr writes more."""

    model_config = ConfigDict(strict=True)

    shape: Annotated[list[Rows], Field(min_length=1, max_length=2)]
    chunk_grid: _Grid
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


def _metadata(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Read an array's shape, its type and the rows of each of its files."""
    if not (path / "zarr.json").is_file():
        raise DataError(f"{path} holds no array: zarr.json is missing")
    tree = read_owned(path / "zarr.json", _METADATA)
    shape, chunk = tuple(tree["shape"]), tree["chunk_grid"]["configuration"]["chunk_shape"]
    if chunk[0] % CHUNK_ROWS or not chunk[0] or tuple(chunk[1:]) != shape[1:]:
        raise DataError(
            f"{path / 'zarr.json'}: files of {chunk} values, expected whole rows, a multiple of {CHUNK_ROWS:,}"
        )
    return shape, np.dtype(tree["data_type"]).newbyteorder("<"), chunk[0]
