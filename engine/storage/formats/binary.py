"""Arrays whose bytes lie in a file as they are: ``.bin``, ``.npy``, ``.npz``, ``.fvecs``, ``.fbin``.

Plain reads, not a memory map, keep the memory of a pass over a file of any size to one block.
"""

from __future__ import annotations

import io
import math
import struct
import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from engine.storage.formats.sources import Vectors, check_matrix, check_promise
from engine.storage.paths import check_file, explain_reading

PREFERRED_NAMES = ("features", "data", "embeddings", "embedding", "vectors")
_FVECS_MAX_DIM = 1 << 20
_MAX_HEADER_BYTES = 1 << 16  # of a .npy file; a usual header takes 118
_MAX_VALUES = 1 << 62
# Errors that zipfile raises for damaged, encrypted or unsupported archives.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    UnicodeError,
    ValueError,
    OverflowError,
    OSError,
)


class RawRows:
    """Rows of an array at an offset of a file, or in a compressed member of a zip file, which is streamed."""

    def __init__(
        self,
        path: Path,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        fortran: bool = False,
        compressed_member: str | None = None,
    ) -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self.sequential = compressed_member is not None
        self.num_rows = shape[0]
        self._offset = offset
        self._fortran = fortran
        self._member = compressed_member
        self._stream: IO[bytes] | None = None
        self._position = 0
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return a copy of rows ``start..stop`` in the stored dtype."""
        if self._fortran:
            return self._read_columns(start, stop)
        block = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if block.nbytes == 0:
            return block
        view = block.reshape(-1).view(np.uint8).data
        at = self._offset + start * (block.nbytes // len(block))
        if self._member is None:
            with explain_reading(self.path), self.path.open("rb", buffering=0) as file:
                file.seek(at)
                self._fill(file, view, start, stop)
        else:
            with self._lock:
                stream = self._stream_at(at, start)
                self._fill(stream, view, start, stop)
                self._stream, self._position = stream, at + len(view)
        return block

    def _read_columns(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read rows of an array in Fortran order, a column at a time."""
        turned = np.empty((*self.shape[:0:-1], stop - start), self.dtype)
        if turned.nbytes:
            columns = turned.reshape(-1, stop - start)
            with explain_reading(self.path), self.path.open("rb", buffering=0) as file:
                for number, column in enumerate(columns):
                    file.seek(self._offset + (number * self.num_rows + start) * self.dtype.itemsize)
                    self._fill(file, column.view(np.uint8).data, start, stop)
        return np.ascontiguousarray(turned.T)

    def _fill(self, file: Any, view: memoryview, start: int, stop: int) -> None:
        filled = 0
        try:
            while filled < len(view):
                count = file.readinto(view[filled:])
                if not count:
                    raise EOFError("the file ends early; is it still being written?")
                filled += count
        except _ZIP_ERRORS as error:
            raise DataError(f"{self.path}: rows {start}..{stop} cannot be read: {error}") from error

    def _stream_at(self, at: int, start: int) -> IO[bytes]:
        """Return the member's stream at offset ``at``; skip forward or open it again. The caller puts it back."""
        stream, position = self._stream, self._position
        self._stream = None
        try:
            if stream is None or at < position:
                assert self._member is not None
                stream, position = zipfile.ZipFile(self.path).open(self._member), 0  # noqa: SIM115
            while position < at:
                skipped = len(stream.read(min(at - position, 1 << 22)))
                if not skipped:
                    raise EOFError("the file ends early; is it still being written?")
                position += skipped
        except _ZIP_ERRORS as error:
            raise DataError(f"{self.path}: rows before {start} cannot be read: {error}") from error
        return stream


class RawVectors:
    """A ``Part`` of raw rows, which are checked to be vectors and converted to a dtype that kernels take."""

    def __init__(self, rows: RawRows) -> None:
        self.path = rows.path
        self.num_rows, self.dim, self.dtype = check_matrix(rows.path, rows.shape, rows.dtype)
        self._rows = rows

    def read(self, start: int, stop: int) -> Vectors:
        return self._rows.read(start, stop).astype(self.dtype, copy=False)


class FvecsVectors:
    """A ``Part`` of ``.fvecs`` rows: each an int32 dimension, then its float32 values, little-endian."""

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, path: Path) -> None:
        size = check_file(path).stat().st_size
        self.path = path
        self.dim = int(np.fromfile(path, "<i4", 1)[0]) if size >= 4 else 0
        if size and not 0 < self.dim <= _FVECS_MAX_DIM:
            raise DataError(f"{path}: not an .fvecs file: its first four bytes give a dimension of {self.dim}")
        row_bytes = 4 + 4 * self.dim
        if size % row_bytes:
            raise DataError(
                f"{path}: {size} bytes is not a whole number of .fvecs rows of dimension {self.dim} "
                f"({row_bytes} bytes each): {size % row_bytes} bytes remain; the file is truncated"
            )
        self.num_rows = size // row_bytes
        stored = np.dtype([("dim", "<i4"), ("vector", "<f4", (self.dim,))])
        self._rows = RawRows(path, 0, (self.num_rows,), stored)

    def read(self, start: int, stop: int) -> Vectors:
        block = self._rows.read(start, stop)
        bad = np.flatnonzero(block["dim"] != self.dim)
        if len(bad):
            raise DataError(
                f"{self.path}: row {start + bad[0]} has dimension {block['dim'][bad[0]]}, but row 0 has {self.dim}"
            )
        return np.ascontiguousarray(block["vector"], dtype=self.dtype)


def open_bin(path: Path, dim: int | None) -> RawVectors:
    """Open little-endian float32 rows without a header. Raises ``DataError`` if ``dim`` is missing or does not fit."""
    size = check_file(path).stat().st_size
    if dim is None:
        raise DataError(f"{path}: a .bin file does not record its dimension; give it with --dim")
    if dim < 1:
        raise DataError(f"{path}: --dim must be at least 1, got {dim}")
    row_bytes = 4 * dim
    if size % row_bytes:
        raise DataError(
            f"{path}: {size} bytes is not a whole number of float32 rows of dimension {dim} ({row_bytes} bytes each): "
            f"{size // row_bytes} rows take {size - size % row_bytes} bytes and {size % row_bytes} remain; "
            f"check --dim, or the file is truncated"
        )
    return RawVectors(RawRows(path, 0, (size // row_bytes, dim), np.dtype("<f4")))


def open_fbin(path: Path) -> RawVectors:
    """Open ``.fbin``: uint32 rows, uint32 dimension, then float32 rows, little-endian."""
    size = check_file(path).stat().st_size
    if size < 8:
        raise DataError(f"{path}: {size} bytes, but an .fbin header alone takes 8; the file is empty or truncated")
    num_rows, dim = (int(value) for value in np.fromfile(path, "<u4", 2))
    expected = 8 + 4 * num_rows * dim
    if size != expected:
        raise DataError(
            f"{path}: its header says {num_rows} rows of dimension {dim}, which takes {expected} bytes, got {size}; "
            f"the file is {'truncated' if size < expected else 'not .fbin, or longer than its header says'}"
        )
    return RawVectors(RawRows(path, 8, (num_rows, dim), np.dtype("<f4")))


def open_npy(path: Path) -> RawRows:
    """Open a ``.npy`` file of any shape. Raises ``DataError`` for object arrays and files of another size."""
    with check_file(path).open("rb") as file:
        shape, fortran, dtype = _read_npy_header(path, file)
        offset = file.tell()
    _check_npy_size(path, shape, dtype, path.stat().st_size - offset)
    return RawRows(path, offset, shape, dtype, fortran=fortran)


def open_npz(path: Path, name: str | None = None, preferred: Sequence[str] = PREFERRED_NAMES) -> RawRows:
    """Open one array of a ``.npz``: ``name``, else the only one, else the first of ``preferred`` that it has.

    An uncompressed array (``np.savez``) is read at any row. A compressed one (``np.savez_compressed``) is decompressed
    while it is read, in constant memory, and a read that goes backwards starts again from the first row.
    """
    try:
        with zipfile.ZipFile(check_file(path)) as archive:
            info = archive.getinfo(_choose_member(path, archive.namelist(), name, preferred))
            _check_member(path, info, archive.start_dir)
            with archive.open(info) as stream:
                shape, fortran, dtype = _read_npy_header(path, stream)
                offset = stream.tell()
            _check_npy_size(path, shape, dtype, info.file_size - offset)
    except DataError:
        raise
    except _ZIP_ERRORS as error:
        raise DataError(f"{path}: not a readable .npz file ({error}); is it truncated?") from error
    if info.compress_type == zipfile.ZIP_STORED:
        return RawRows(path, _member_offset(path, info) + offset, shape, dtype, fortran=fortran)
    if fortran and len(shape) > 1:
        raise DataError(
            f"{path}: a compressed array in Fortran order cannot be read by rows; "
            f"save np.ascontiguousarray(array), or use np.savez"
        )
    return RawRows(path, offset, shape, dtype, compressed_member=info.filename)


def _choose_member(path: Path, members: Sequence[str], name: str | None, preferred: Sequence[str]) -> str:
    names = [member.removesuffix(".npy") for member in members if member.endswith(".npy")]
    if name is not None and name not in names:
        raise DataError(f"{path}: has no array {name!r}; it has {', '.join(names) or 'none'}")
    if name is None:
        candidates = names if len(set(names)) == 1 else [known for known in preferred if known in names]
        if not candidates:
            raise DataError(
                f"{path}: cannot tell which array to read: it has {', '.join(names) or 'none'}; "
                f"expected one array only, or one named {', '.join(preferred)}"
            )
        name = candidates[0]
    if names.count(name) > 1:
        raise DataError(f"{path}: has {names.count(name)} arrays named {name!r}; expected one of each name")
    return f"{name}.npy"


def _check_member(path: Path, info: zipfile.ZipInfo, end: int) -> None:
    """Refuse a zip member of impossible size: larger than the file, or packed more than deflate can pack."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{path}: {info.filename} is packed by a method that np.savez never writes; save it by np.savez"
        )
    stored = info.compress_type == zipfile.ZIP_STORED
    if info.header_offset + info.compress_size > end or (stored and info.file_size != info.compress_size):
        raise DataError(
            f"{path}: {info.filename} is to take {info.compress_size:,} bytes, and {info.file_size:,} unpacked, of "
            f"{end:,}; the file is damaged"
        )
    check_promise(f"{path}: {info.filename}", info.file_size, info.compress_size)


def _member_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the offset of a zip member's bytes (APPNOTE 4.3.7: they follow the local header, name and extra)."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_bytes, extra_bytes = np.frombuffer(file.read(4), "<u2")
    return info.header_offset + 30 + int(name_bytes) + int(extra_bytes)


def _read_npy_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        # Version 3.0 differs only in field names of structured arrays, which no reader here accepts.
        reader, width = {
            (1, 0): (np.lib.format.read_array_header_1_0, 2),
            (2, 0): (np.lib.format.read_array_header_2_0, 4),
        }[version]
        length = file.read(width)
        num_bytes = int.from_bytes(length, "little")
        if num_bytes > _MAX_HEADER_BYTES:  # because numpy would allocate it first
            raise ValueError(f"its header is to take {num_bytes:,} bytes")
        shape, fortran, dtype = reader(io.BytesIO(length + file.read(num_bytes)))
    except Exception as error:  # damaged headers make numpy raise nearly anything
        raise DataError(f"{path}: not a readable .npy array ({error}); is it empty or truncated?") from error
    if dtype.hasobject:
        raise DataError(
            f"{path}: holds Python objects (pickled), which are never loaded; save a plain array of numbers"
        )
    if not shape:
        raise DataError(f"{path}: holds a single number, not rows")
    if min(shape) < 0 or dtype.itemsize == 0 or math.prod(max(size, 1) for size in shape) > _MAX_VALUES:
        raise DataError(f"{path}: its header says {dtype} of shape {shape}, which no array is; the file is damaged")
    return shape, fortran, dtype


def _check_npy_size(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], got: int) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if got != expected:
        raise DataError(
            f"{path}: its header says {dtype} of shape {shape}, which takes {expected} bytes, got {got}; "
            f"the file is {'truncated' if got < expected else 'longer than its header says'}"
        )
