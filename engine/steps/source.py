"""Turn source vectors into validated blocks of unit rows, and identify a source.

A *store* is a run folder whose only stage is ``ingest``: ``asterism ingest`` makes one, and runs read it directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numba import njit

from engine.errors import DataError
from engine.sections import fingerprint
from engine.storage import manifest
from engine.storage.cache import copied_version, local_copy, original_names
from engine.storage.context import is_committed
from engine.storage.formats.registry import open_source
from engine.storage.formats.sources import VectorSource
from engine.storage.paths import check_file, check_readable, explain_reading, lies_there
from engine.storage.places import open_place
from engine.storage.remote import Storage, absolute, is_url

NAMED_ROWS = 8
WHOLE_BYTES = 64 << 20  # sources up to this size are digested whole
SAMPLES, SAMPLE_BYTES = 256, 64 << 10  # a larger source is digested by so many samples
_ZERO, _BAD = 1, 2
_TINY, _HUGE = 1e-200, 1e200


@dataclass(frozen=True)
class Source:
    """The vectors that a run reads: how to open them, their shape, and a digest that tells them from others.

    ``store``: folder of the committed ``ingest`` stage, if the source was ingested before. ``stats``: sizes and times
    of the source's files (``file_stats``), by which the digest need not be computed again. ``version`` follows from
    them and tells whether the files are still those described. ``zero_vectors``: how a store was told to treat them.
    """

    path: str
    spec: Mapping[str, Any]
    num_rows: int
    dim: int
    item_bytes: int
    digest: str
    store: str | None
    stats: list[list[Any]]
    sequential: bool = False
    zero_vectors: str | None = None
    version: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "spec": dict(self.spec)}


def describe_source(
    path: str | Path,
    *,
    dim: int | None = None,
    column: str | None = None,
    items_column: str | None = None,
    bits: str | None = None,
    known: Mapping[str, Any] | None = None,
) -> Source:
    """Open a source, check its headers, and compute its digest.

    The digest of a source up to ``WHOLE_BYTES`` follows its content alone. A larger source is not read twice: its
    digest covers the size and time of change of every file and a sample of the bytes, so a copy is another source
    unless it keeps the times. ``known`` is an earlier description; if sizes and times of all its files are unchanged,
    its digest holds. A URL's source is described from this host's copy. Raises ``DataError`` for anything malformed.
    """
    if is_url(path):
        return _describe_url(absolute(path), dim, column, items_column, bits)
    path = Path(path)
    if is_store(path):
        return _describe_store(path, dim)
    source = open_source(path, dim=dim, column=column, items_column=items_column, bits=bits)
    source.items(0, 0)
    files, read = source.files(), source_files(source)
    stats, version = file_stats(read), version_of(path, read)
    if known is not None and known.get("stats") == stats and known.get("spec") == source.spec():
        digest = str(known["digest"])
    else:
        digest = _digest(files, stats[: len(files)], source.num_rows, source.dim)
        if bits == "binary":  # as many dimensions as "ubinary", but others
            digest = fingerprint([digest, bits])
    return Source(
        source.path,
        source.spec(),
        source.num_rows,
        source.dim,
        source.dtype.itemsize,
        digest,
        None,
        stats,
        source.sequential,
        version=version,
    )


def source_files(source: VectorSource) -> list[Path]:
    """List the files of a source's vectors, then the files of ids and items."""
    return [*source.files(), *source.companions()]


def files_at(path: Path) -> list[Path]:
    """List a file, or all files below a folder, in order. Raises ``DataError`` for an unreadable or empty path."""
    files = sorted(p for p in path.rglob("*") if not p.is_dir()) if check_readable(path) else [path]
    if not files:
        raise DataError(f"{path}: an empty folder")
    return [check_file(file) for file in files]


def file_stats(files: Sequence[Path]) -> list[list[Any]]:
    """List path, size and time of change of each file."""
    found = []
    for file in files:
        with explain_reading(file):
            state = file.stat()
        found.append([str(file), state.st_size, state.st_mtime_ns])
    return found


def version_of(path: Path, files: Sequence[Path]) -> str:
    """Tell the files of a source or graph from a later state of them, by their number, sizes and times.

    This host's copy of a URL may have times of its own, so the storage's listing of the URL counts instead.
    """
    return copied_version(path) or fingerprint(file_stats(files))


def refuse_changed(path: Path, files: Sequence[Path], version: str) -> None:
    """Raise ``DataError`` if ``version_of`` these files is not what it was when the plan was made."""
    if version_of(path, files) != version:
        latest = max(file_stats(files), key=lambda each: each[2])[0]
        raise DataError(
            f"{path}: changed while it was read ({latest}), so rows of both states could be mixed; wait until it is "
            f"written, then start again with another --out"
        )


def is_store(path: Path) -> bool:
    """Tell whether ``path`` is a folder that ``asterism ingest`` made."""
    return lies_there(path / manifest.RUN_FILE)


class Normalised(NamedTuple):
    """A block of rows: ``unit_ND`` float32, where rows without a direction are zeros, and what was found.

    ``zeros`` and ``bad``: indices within the block of zero vectors, and of rows with NaN, infinity or a missing value.
    ``lengths_N``: lengths of the rows as they were, float64; 0 for both kinds.
    """

    unit_ND: np.ndarray
    zeros: np.ndarray
    bad: np.ndarray
    lengths_N: np.ndarray


def normalise(rows_ND: np.ndarray, first_row: int, path: str, *, drop_bad: bool = False) -> Normalised:
    """Scale rows to unit length.

    Vectors of any finite magnitude are normalised exactly; lengths are summed in float64. Raises ``DataError`` naming
    the rows, counted from 0, that hold NaN, infinity or a missing value, unless ``drop_bad``.
    """
    if rows_ND.dtype == np.float16:
        rows_ND = rows_ND.astype(np.float32)
    unit_ND = np.empty(rows_ND.shape, np.float32)
    state_N, lengths_N = np.empty(len(rows_ND), np.int8), np.empty(len(rows_ND))
    _normalise(rows_ND, unit_ND, state_N, lengths_N)
    bad = np.flatnonzero(state_N == _BAD)
    if len(bad) and not drop_bad:
        raise DataError(
            f"{path}: NaN, infinite or missing values in {_name_rows(bad + first_row)}; mend these rows, or set them "
            f"aside (label -1) with --bad-rows drop"
        )
    return Normalised(unit_ND, np.flatnonzero(state_N == _ZERO), bad, lengths_N)


def refuse_zeros(zeros: np.ndarray, path: str) -> None:
    """Raise ``DataError`` naming the rows of zero vectors, if there are any."""
    if len(zeros):
        raise DataError(
            f"{path}: zero vectors in {_name_rows(zeros)} have no direction; leave them out with "
            f"--zero-vectors drop, or keep each as a cluster of its own with --zero-vectors singleton"
        )


@njit(nogil=True, cache=True)
def _normalise(rows_ND, unit_ND, state_N, lengths_N):  # type: ignore[no-untyped-def]
    for row in range(len(rows_ND)):
        vector = rows_ND[row]
        scale = 1.0
        squares = _sum_squares(vector, scale)
        if not _TINY < squares < _HUGE:  # zero, bad, or float64 of a magnitude whose squares are not exact
            scale = _largest(vector)
            if scale == 0 or np.isinf(scale):
                state_N[row] = _ZERO if scale == 0 else _BAD
                unit_ND[row] = 0
                lengths_N[row] = 0
                continue
            squares = _sum_squares(vector, scale)
        state_N[row] = 0
        if scale == 1:
            lengths_N[row] = np.sqrt(squares)
            factor = 1 / np.sqrt(squares)
            for column in range(len(vector)):
                unit_ND[row, column] = vector[column] * factor
        else:
            length = np.sqrt(squares)
            lengths_N[row] = length * scale
            for column in range(len(vector)):
                unit_ND[row, column] = vector[column] / scale / length


@njit(nogil=True, cache=True)
def _sum_squares(vector, scale):  # type: ignore[no-untyped-def]
    # Four sums: their order is fixed, and the processor need not wait for the previous addition.
    a = b = c = d = 0.0
    whole = len(vector) // 4 * 4
    if scale == 1:
        for i in range(0, whole, 4):
            a += np.float64(vector[i]) * np.float64(vector[i])
            b += np.float64(vector[i + 1]) * np.float64(vector[i + 1])
            c += np.float64(vector[i + 2]) * np.float64(vector[i + 2])
            d += np.float64(vector[i + 3]) * np.float64(vector[i + 3])
        start = whole
    else:
        start = 0
    for i in range(start, len(vector)):
        value = vector[i] / scale
        a += value * value
    return (a + b) + (c + d)


@njit(nogil=True, cache=True)
def _largest(vector):  # type: ignore[no-untyped-def]
    """Give the largest magnitude; infinity if any value is not finite."""
    largest = 0.0
    for value in vector:
        magnitude = np.float64(abs(value))
        if not np.isfinite(magnitude):
            return np.inf
        largest = max(largest, magnitude)
    return largest


def _name_rows(rows: np.ndarray) -> str:
    named = ", ".join(f"{row:,}" for row in rows[:NAMED_ROWS])
    rest = f" and {len(rows) - NAMED_ROWS:,} more of this block" if len(rows) > NAMED_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {named}{rest}"


def _describe_store(path: Path, dim: int | None) -> Source:
    held = manifest.read_run(path)
    stages = held["plan"]["stages"]
    ingest = next((stage for stage in stages if stage["name"] == "ingest"), None)
    if held["kind"] != "store" or held["state"] != "finished" or ingest is None:
        raise DataError(
            f"{path} holds a {held['kind']} that is {held['state']}, not a finished store; "
            f"make one with: asterism ingest SOURCE --out STORE"
        )
    source = held["request"]["source"]
    if dim is not None and dim != source["dim"]:
        raise DataError(f"{path}: --dim {dim} was given, the store holds {source['dim']} dimensions")
    folder = path / f"ingest-{ingest['digest'][:12]}"
    if not is_committed(folder, ingest["digest"], ingest["num_rows"]):
        raise DataError(f"{folder}: commit records are missing or damaged; asterism resume {path} mends the store")
    return Source(
        str(path.absolute()),
        source["spec"],
        source["num_rows"],
        source["dim"],
        source["item_bytes"],
        f"store:{ingest['digest']}",
        str(folder.absolute()),
        [],
        zero_vectors=ingest["params"]["zero_vectors"],
        version=source.get("version", ""),
    )


def _describe_url(url: str, dim: int | None, column: str | None, items_column: str | None, bits: str | None) -> Source:
    if Storage(url).read(manifest.RUN_FILE) is not None:
        place = open_place(url)
        place.refresh()
        store = _describe_store(place.root, dim)
        assert store.store is not None
        return replace(store, path=url, store=place.address(Path(store.store).name))
    copy = local_copy(url)
    with original_names({str(copy): url}):
        source = describe_source(copy, dim=dim, column=column, items_column=items_column, bits=bits)
    return replace(source, path=url, spec={**source.spec, "path": url}, stats=[])


def _digest(files: list[Path], stats: list[list[Any]], num_rows: int, dim: int) -> str:
    hasher = xxhash.xxh3_128(f"{num_rows}x{dim}".encode())
    ends = np.cumsum([size for _, size, _ in stats], dtype=np.int64)
    if not len(ends) or ends[-1] <= WHOLE_BYTES:
        for file in files:
            hasher.update(manifest.file_checksum(file).encode())
        return hasher.hexdigest()
    hasher.update(repr([[size, changed] for _, size, changed in stats]).encode())
    for position in np.linspace(0, ends[-1] - SAMPLE_BYTES, SAMPLES).astype(np.int64):
        number = int(np.searchsorted(ends, position, side="right"))
        with files[number].open("rb", buffering=0) as stream:
            stream.seek(int(position - ends[number] + stats[number][1]))
            hasher.update(stream.read(SAMPLE_BYTES))
    return hasher.hexdigest()
