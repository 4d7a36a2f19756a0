"""Source vectors to validated, normalised feature blocks; and what identifies a source.

A *store* is a run folder whose only stage is ``ingest``: ``asterism ingest`` makes one, and runs read it directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from engine.errors import DataError
from engine.storage import manifest
from engine.storage.formats import VectorSource, open_source
from engine.tiles import map_tiles, tile_bounds

TILE_ROWS = 4096
NAMED_ROWS = 8


@dataclass(frozen=True)
class Source:
    """What a run reads: how to open it, its shape, and a digest of its content.

    ``store``: folder of the committed ``ingest`` stage, if the source was ingested before. ``stats`` are the sizes and
    times of the files that the digest was computed from, so that it need not be computed again. ``zero_vectors``: how a
    store was told to treat them.
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

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "spec": dict(self.spec)}


def describe_source(
    path: str | Path,
    *,
    dim: int | None = None,
    column: str | None = None,
    items_column: str | None = None,
    known: Mapping[str, Any] | None = None,
) -> Source:
    """Open a source, check its headers, and compute its digest (one pass over its bytes).

    ``known`` is an earlier description: where sizes and times of all its files are unchanged, its digest holds.
    Raises ``DataError`` for anything malformed.
    """
    path = Path(path)
    if is_store(path):
        return _describe_store(path, dim)
    source = open_source(path, dim=dim, column=column, items_column=items_column)
    source.items(0, 0)
    files = [Path(file) for file in source.files()]
    stats = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    if known is not None and known.get("stats") == stats and known.get("spec") == source.spec():
        digest = str(known["digest"])
    else:
        digest = _digest(files, source.num_rows, source.dim)
    return Source(
        source.path, source.spec(), source.num_rows, source.dim, source.dtype.itemsize, digest, None, stats,
        source.sequential,
    )  # fmt: skip


def is_store(path: Path) -> bool:
    """Tell whether ``path`` is a folder that ``asterism ingest`` made."""
    return (path / manifest.RUN_FILE).is_file()


def normalise(rows_ND: np.ndarray, first_row: int, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale rows to unit length; return float32 rows and the indices (within the block) of zero rows, left as zeros.

    Safe for any finite magnitude. Raises ``DataError`` naming the rows (counted from 0) that hold NaN or infinity.
    """
    wide = rows_ND.astype(np.float64)
    largest = np.abs(wide).max(axis=1)
    bad = np.flatnonzero(~np.isfinite(largest))
    if len(bad):
        raise DataError(f"{path}: NaN or infinite values in {_name_rows(bad + first_row)}; mend or remove these rows")
    scale = np.where(largest > 0, largest, 1.0)
    wide /= scale[:, None]
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    wide /= np.where(norms > 0, norms, 1.0)[:, None]
    return wide.astype(np.float32), np.flatnonzero(largest == 0)


def read_normalised(
    source: VectorSource, start: int, stop: int, zero_vectors: str, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read and normalise rows ``start..stop``; return float32 rows and the global row numbers of zero vectors."""

    def normalise_tile(bounds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        rows, zeros = normalise(block[bounds[0] - start : bounds[1] - start], bounds[0], source.path)
        return rows, zeros + bounds[0]

    block = source.read(start, stop)
    parts = map_tiles(normalise_tile, tile_bounds(start, stop, TILE_ROWS), threads)
    zeros = np.concatenate([part[1] for part in parts])
    if len(zeros) and zero_vectors == "error":
        raise DataError(
            f"{source.path}: zero vectors in {_name_rows(zeros)} have no direction; leave them out with "
            f"--zero-vectors drop, or keep each as a cluster of its own with --zero-vectors singleton"
        )
    return np.concatenate([part[0] for part in parts]), zeros


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
    return Source(
        str(path.absolute()), source["spec"], source["num_rows"], source["dim"], source["item_bytes"],
        f"store:{ingest['digest']}", str(folder.absolute()), [], zero_vectors=ingest["params"]["zero_vectors"],
    )  # fmt: skip


def _digest(files: list[Path], num_rows: int, dim: int) -> str:
    hasher = xxhash.xxh3_128(f"{num_rows}x{dim}".encode())
    for file in files:
        hasher.update(manifest.file_checksum(file).encode())
    return hasher.hexdigest()
