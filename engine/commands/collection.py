"""A run opened as a collection: its tables, the assignment of vectors, and updates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.assigning import MOST_QUERIES, NAMED, Assigner, Assignment
from engine.collection.versions import GIVEN_TO_UPDATES, Version, current_version, unfinished_update
from engine.commands.collection_tables import CollectionTables, Table
from engine.commands.opening import kept_of
from engine.commands.request import Given, Request
from engine.commands.resources import Resources, load_resources
from engine.commands.run_folder import labels_of, open_run, vectors_folder
from engine.commands.updates import Update, update
from engine.errors import ConfigError, DataError
from engine.steps.ingest import row_column
from engine.steps.source import normalise
from engine.storage.cache import local_copy, original_names
from engine.storage.formats.export import TABLES, choose_format, stream_table
from engine.storage.formats.in_memory import is_place
from engine.storage.formats.packed_bits import Bits
from engine.storage.formats.registry import open_source
from engine.storage.manifest import read_run
from engine.storage.outputs import out_file, write_out
from engine.storage.row_ids import RowIds
from engine.units import CHUNK_ROWS

ROWS, IDS = GIVEN_TO_UPDATES


class Collection(CollectionTables):
    """The last version of a run's collection, as ``open`` returns it.

    Rows are numbered in the order of the run's source, then of each update; after a removal the rows that stay are
    numbered anew. Ids of rows and clusters stay. Columns of tables are arrays, or lists where they hold texts. The
    object shows one version; ``update`` and ``remove`` go on to the next one.
    """

    def __init__(self, root: str | Path, *, threads: int = 0) -> None:
        super().__init__(root, threads=threads)
        self._assigning = threading.Lock()  # calls of ``assign`` from several threads take turns

    def assign(self, vectors: np.ndarray, *, bad_rows: str = "error") -> Assignment:
        """Tell which cluster each vector would join, (n, D), of any length but 0; nothing changes.

        A vector of zeros joins none. Raises ``DataError`` for vectors of another dimension, and for values that are not
        finite; with ``bad_rows`` of ``drop`` a vector that holds one joins none.
        """
        given = np.atleast_2d(np.asarray(vectors))
        dim = self.state.dim
        if given.ndim != 2 or given.shape[1] != dim or given.dtype.kind not in "fiu":
            raise DataError(f"vectors of shape {given.shape} and type {given.dtype}: expected (n, {dim}) numbers")
        return self._assign(given, 0, "vectors", bad_rows == "drop")

    def update(self, features: Any = None, **how: Any) -> Update:
        """Add rows: an (n, D) array or what else ``cluster`` takes, or the path of any supported source.

        Data are named by the next numbers, which only a collection without ids of its own takes. ``how``: as in
        ``engine.commands.updates.update``.
        """
        if features is None or is_place(features):
            return self._changed(features=features, **how)
        return self._changed_by(lambda given: given.vectors(features, ROWS), ROWS, "features", how)

    def remove(self, ids: Iterable[Any], **how: Any) -> Update:
        """Remove rows by their ids; nothing of them is left in the run's folder."""
        named = [ids] if isinstance(ids, str | bytes) or not isinstance(ids, Iterable) else list(ids)
        return self._changed_by(lambda given: given.ids(named, IDS), IDS, "remove", how)

    def _changed_by(self, keep: Callable[[Given], str], what: str, name: str, how: dict[str, Any]) -> Update:
        """Update by data of the caller, which stay in the run's folder until the update is done."""
        with Given(self.root) as given:
            path = keep(given)
        try:
            with original_names({path: f"the {what} given"}):
                return self._changed(**{name: path}, **how)
        finally:
            begun = unfinished_update(self.root)
            if begun is None or begun[1]["request"]["features"] != path:
                Path(path).unlink(missing_ok=True)

    def _changed(self, **how: Any) -> Update:
        self._forget()
        done = update(self.root, **{"progress": False, **how})
        self.held = current_version(self.root, lambda: kept_of(self.root))
        return done

    def _forget(self) -> None:
        for name in ("labels", "row_ids", "state", "explained", "_assigner"):
            self.__dict__.pop(name, None)

    @cached_property
    def _assigner(self) -> Assigner:
        return Assigner(self.state, self.threads)

    def _assign(self, given: np.ndarray, first: int, place: str, drop_bad: bool) -> Assignment:
        parts = []
        for begin in range(0, len(given), MOST_QUERIES):
            block = np.ascontiguousarray(given[begin : begin + MOST_QUERIES])
            rows = normalise(block, first + begin, place, drop_bad=drop_bad)
            with self._assigning:
                parts.append(self._assigner.assign(rows.unit_ND, np.union1d(rows.zeros, rows.bad)))
        if not parts:
            return Assignment(np.empty(0, np.int64), np.empty((0, NAMED), np.int64), np.empty((0, NAMED), np.float32))
        return Assignment(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def open_run_collection(run: str | Path, *, threads: int = 0) -> Collection:
    """Open a finished run as a collection; see ``Collection``.

    Raises ``ConfigError`` for a run at a URL or of a method whose scores cannot be updated.
    """
    return Collection(run, threads=threads)


def assign(
    root: str | Path,
    features: str,
    out: str,
    *,
    dim: int | None = None,
    column: str | None = None,
    bits: Bits | None = None,
    bad_rows: str = "error",
    resources: Resources | None = None,
) -> tuple[str, int]:
    """Write which cluster each vector of a source would join, as Parquet or CSV; return the place and the rows.

    Columns: ``row``, ``id`` if the source has ids, ``cluster`` (-1: a new one), and ``nearest_1``, ``probability_1`` to
    ``_3``. The source is read, and the table written, block by block.
    """
    kind = choose_format(out, None, TABLES)
    collection = Collection(root, threads=(resources or load_resources(None)).threads)
    request = Request.from_dict(read_run(collection.root)["request"])
    source = open_source(local_copy(features), dim=dim or request.dim, column=column, bits=bits or request.bits)
    place = out_file(out, never=[str(collection.root), str(features)])
    if source.dim != collection.state.dim:
        raise DataError(f"{features}: vectors of {source.dim} dimensions, the collection's have {collection.state.dim}")
    ids = source.ids()

    def blocks() -> Iterator[Mapping[str, Any]]:
        for begin in range(0, source.num_rows, CHUNK_ROWS):
            end = min(begin + CHUNK_ROWS, source.num_rows)
            found = collection._assign(source.read(begin, end), begin, str(features), bad_rows == "drop")
            block: Table = {"row": np.arange(begin, end)}
            if ids is not None:
                block["id"] = ids[begin:end].combine_chunks()
            block["cluster"] = found.clusters
            for place in range(found.nearest.shape[1]):
                block[f"nearest_{place + 1}"] = found.nearest[:, place]
                block[f"probability_{place + 1}"] = found.probabilities[:, place]
            yield block

    write_out(place, lambda path: stream_table(path, blocks(), kind))
    return place, source.num_rows


def named_labels(root: str | Path) -> tuple[RowIds, np.ndarray]:
    """The ids of a run's rows and their clusters: of its last version, or of a run that has none."""
    here = open_run(root)
    version: Version | None = None
    with suppress(ConfigError):
        version = current_version(here, lambda: kept_of(here))
    if version is not None:
        return version.ids(here), version.labels(here)
    labels = labels_of(here, root)
    column = row_column(vectors_folder(here, "rows"), "id")
    return (RowIds(column, str(root)) if column is not None else RowIds.numbered(0, len(labels))), labels
