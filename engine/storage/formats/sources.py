"""Sources of vectors of any format: rows of one dimension, read block by block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import DataError

Vectors = npt.NDArray[Any]

MAX_DIM = 1 << 20
_MOST_COMPRESSED, _SMALL_BYTES = 1_100, 64 << 20  # deflate packs 1,032 bytes into one at most
_READ_AS_FLOAT32 = (np.dtype(np.uint8), np.dtype(np.int8))
_READ_UNCHANGED = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


class Part(Protocol):
    """Consecutive rows of a source."""

    @property
    def path(self) -> Path: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, start: int, stop: int) -> Vectors: ...


class RowNames(Protocol):
    """Ids and items of the rows of a source."""

    def ids(self) -> pa.ChunkedArray | None: ...
    def items(self, start: int, stop: int) -> list[str] | None: ...
    def pictures(self, items: Iterable[str]) -> dict[str, bytes | str]: ...
    def files(self) -> list[Path]: ...


@dataclass(frozen=True)
class SourceOptions:
    """The options of ``open_source``."""

    dim: int | None = None
    column: str | None = None
    items_column: str | None = None
    bits: str | None = None

    def refuse(self, path: Path, *names: str) -> None:
        """Raise ``DataError`` if one of the named options was given, because the format has no use for it."""
        for name in names:
            if getattr(self, name) is not None:
                raise DataError(
                    f"{path}: {name}={getattr(self, name)!r} was given, but this format has nothing to choose: "
                    f"leave {name} out"
                )


class VectorSource:
    """Vectors in their original format and order: the rows of one or more parts.

    ``path`` is absolute; ``dtype`` is what ``read`` returns. ``sequential`` is true if a read that goes backwards
    starts again from the first row (compressed ``.npz``): read such a source in order, in one process. ``files`` hold
    the vectors, in row order; by default they are the files of the parts.
    """

    def __init__(
        self,
        path: Path,
        options: SourceOptions,
        parts: Sequence[Part],
        *,
        files: Sequence[Path] | None = None,
        names: RowNames | None = None,
        sequential: bool = False,
    ) -> None:
        self.path = str(path)
        self.sequential = sequential
        self._options = options
        self._parts = parts
        self._names = names
        self._files = [part.path for part in parts] if files is None else list(files)
        self._ends = np.cumsum([part.num_rows for part in parts], dtype=np.int64)
        self.num_rows = int(self._ends[-1])
        self.dim = parts[0].dim
        self.dtype = np.result_type(*(part.dtype for part in parts))
        if self.num_rows == 0:
            raise DataError(f"{path}: holds no rows; there is nothing to cluster")
        for part in parts:
            if part.dim != self.dim:
                raise DataError(
                    f"{part.path}: vectors of dimension {part.dim}, but {parts[0].path} has {self.dim}; "
                    f"all files of a source must agree"
                )
        if options.dim is not None and options.dim != self.dim:
            raise DataError(
                f"{path}: holds vectors of dimension {self.dim}, but --dim says {options.dim}; "
                f"leave --dim out, as this format records it"
            )

    def wrap(self, change: Callable[[Part], Part]) -> None:
        """Read every part through another one, whose rows are as many."""
        self._parts = [change(part) for part in self._parts]
        self.dim, self.dtype = self._parts[0].dim, np.result_type(*(part.dtype for part in self._parts))
        if self.dim > MAX_DIM:
            raise DataError(f"{self.path}: expected rows of dimension 1 to {MAX_DIM:,}, got {self.dim:,}")

    def read(self, start: int, stop: int) -> Vectors:
        """Return rows ``start..stop`` as a new C-order (stop - start, dim) array of ``dtype``, not normalised.

        Peak memory is about twice the block. Values are not checked (NaN, infinity and zero vectors pass). Raises
        ``DataError`` for rows out of range, ragged or null rows, and a damaged file.
        """
        check_range(self.path, start, stop, self.num_rows)
        first = int(np.searchsorted(self._ends, start, side="right"))
        if start == stop or stop <= self._ends[first]:
            part = self._parts[min(first, len(self._parts) - 1)]
            offset = int(self._ends[min(first, len(self._parts) - 1)]) - part.num_rows
            return part.read(start - offset, stop - offset).astype(self.dtype, copy=False)
        block = np.empty((stop - start, self.dim), self.dtype)
        filled = 0
        for part, end in zip(self._parts[first:], self._ends[first:], strict=True):
            offset = int(end) - part.num_rows
            a, b = max(start - offset, 0), min(stop - offset, part.num_rows)
            if a >= b:
                continue
            block[filled : filled + b - a] = part.read(a, b)
            filled += b - a
            if filled == len(block):
                break
        return block

    def ids(self) -> pa.ChunkedArray | None:
        """Return the source's own identifier of every row, or None if it has none."""
        return None if self._names is None else self._names.ids()

    def items(self, start: int, stop: int) -> list[str] | None:
        """Return the text or image path that depicts each of rows ``start..stop``, or None if there are no items.

        The first call, even of no rows, checks that there is one item per row and raises ``DataError`` if not.
        """
        check_range(self.path, start, stop, self.num_rows)
        return None if self._names is None else self._names.items(start, stop)

    def pictures(self, items: Iterable[str]) -> dict[str, bytes | str]:
        """Return the pictures that items stand for: bytes, or a path. Items that stand for none are left out."""
        return {} if self._names is None else self._names.pictures(items)

    def files(self) -> list[Path]:
        """Return every file that holds vectors, in row order."""
        return list(self._files)

    def companions(self) -> list[Path]:
        """Return the other files, which hold ids or items of the rows."""
        return [] if self._names is None else [file for file in self._names.files() if file not in set(self._files)]

    def spec(self) -> dict[str, Any]:
        """Return the JSON-like arguments with which ``open_source`` opens the same source in another process."""
        return {"path": self.path, **asdict(self._options)}


def check_matrix(where: object, shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[int, int, np.dtype[Any]]:
    """Return rows, dimension and the dtype to read, or raise ``DataError`` if the array does not hold vectors.

    float16, float32 and float64 are read unchanged, in native byte order; uint8 and int8 (quantised embeddings) as
    float32. Every other type is refused, because wider integers are labels or neighbour ids, not vectors.
    """
    if dtype.hasobject:
        raise DataError(f"{where}: holds Python objects (pickled), which are never loaded; save a plain float32 array")
    if len(shape) != 2 or shape[1] == 0:
        raise DataError(f"{where}: expected a 2-D array (rows, dimension), got shape {tuple(shape)}")
    if shape[0] < 0 or not 0 < shape[1] <= MAX_DIM:
        raise DataError(f"{where}: expected rows of dimension 1 to {MAX_DIM:,}, got shape {tuple(shape)}")
    native = dtype.newbyteorder("=")
    if native in _READ_AS_FLOAT32:
        native = np.dtype(np.float32)
    if native not in _READ_UNCHANGED:
        raise DataError(
            f"{where}: expected vectors of float16, float32, float64, uint8 or int8, got {dtype}; "
            f"convert vectors with .astype('float32'), or check that this is no file of labels or neighbours"
        )
    return int(shape[0]), int(shape[1]), native


def check_promise(where: object, promised_bytes: int, stored_bytes: int) -> None:
    """Raise ``DataError`` if compressed bytes are far too few for what their header says they hold.

    Vectors and ids hardly compress, so a header that promises a thousand times the stored bytes is damaged. A reader
    that believed it would allocate memory for rows that do not exist.
    """
    if promised_bytes > _MOST_COMPRESSED * stored_bytes + _SMALL_BYTES:
        raise DataError(
            f"{where}: its header says that it holds {promised_bytes:,} bytes, but only {stored_bytes:,} are stored; "
            f"the file is damaged"
        )


def check_range(where: object, start: int, stop: int, num_rows: int) -> None:
    """Raise ``DataError`` unless ``0 <= start <= stop <= num_rows``."""
    if not 0 <= start <= stop <= num_rows:
        raise DataError(f"{where}: rows {start}..{stop} asked for, but it has rows 0..{num_rows}")


def natural_order(paths: Sequence[Path]) -> list[Path]:
    """Sort paths by name, with numbers in names as numbers: ``part_2`` before ``part_10``."""

    def key(path: Path) -> list[tuple[bool, int, str]]:
        return [(t.isdecimal(), int(t) if t.isdecimal() else 0, t) for t in re.split(r"(\d+)", path.name)]

    return sorted(paths, key=key)
