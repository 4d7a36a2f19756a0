"""A run opened as a collection: its tables, the assignment of vectors, and updates."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.evidence import COSINE_BANDWIDTH, edge_weights
from engine.clustering.matching import EVENTS
from engine.collection.additions import Scorer
from engine.collection.assigning import Assignment, assign_batch, batch_rows
from engine.collection.state import State, read_lineage
from engine.collection.tables import cluster_table
from engine.collection.versions import Version, current_version
from engine.commands.resources import Resources, count_threads, load_resources
from engine.commands.run_folder import labels_of, open_run, vectors_folder
from engine.commands.updates import Update, kept_of, open_collection, update
from engine.errors import ConfigError, DataError
from engine.evaluation.explain import ClusterTable, RowTable, ScoredEdges, explain_labels
from engine.steps.ingest import row_column
from engine.steps.source import normalise
from engine.storage.cache import local_copy
from engine.storage.formats.export import TABLES, choose_format, stream_table
from engine.storage.formats.registry import open_source
from engine.storage.outputs import out_file, write_out
from engine.storage.row_ids import RowIds
from engine.units import CHUNK_ROWS

Table = dict[str, Any]


class Collection:
    """The last version of a run's collection, as ``open`` returns it.

    Rows are numbered in the order of the run's source, then of each update; after a removal the rows that stay are
    numbered anew. Ids of rows and clusters stay. Columns of tables are arrays, or lists where they hold texts. The
    object shows one version; ``update`` and ``remove`` go on to the next one.
    """

    def __init__(self, root: str | Path, *, threads: int = 0) -> None:
        self.threads = count_threads(Resources(threads=threads))
        self.root, self._version = open_collection(root)

    @property
    def version(self) -> int:
        """The number of the last update, 0 for the run itself."""
        return self._version.number

    @cached_property
    def labels(self) -> np.ndarray:
        """The cluster of each row, (N,) int64; -1 for a row that was dropped."""
        return self._version.labels(self.root)

    @cached_property
    def row_ids(self) -> list[Any]:
        """The id of each row, as the source names it; its number where the source has no ids."""
        return self._version.ids(self.root).to_list()

    def rows(self) -> Table:
        """Give the table of rows: ``id``, ``cluster``, and how sure that is, as in an export."""
        rows, _ = self._explained
        return {"id": self.row_ids, "cluster": self.labels, **rows.__dict__}

    def clusters(self) -> Table:
        """Give the table of clusters, by id.

        ``cluster``, ``rows``, ``confidence``, ``cohesion`` and ``nearest`` as in an export; ``medoid``: the id of the
        row that is most similar to all others; ``keep``: the id of the row to keep if one is to stand for all, which
        is the first copy of the medoid.
        """
        _, explained = self._explained
        medoids, kept = cluster_table(self._state, explained.labels)
        ids = self._state.ids
        return {
            "cluster": explained.labels,
            "rows": explained.sizes,
            "medoid": ids.take(medoids).to_list(),
            "keep": ids.take(kept).to_list(),
            "confidence": explained.confidence,
            "cohesion": explained.cohesion,
            "nearest": explained.nearest,
        }

    def lineage(self) -> Table:
        """Give what became of clusters: ``update``, ``event``, ``cluster``, ``other``, ``rows``, oldest first.

        Events are those of ``engine.clustering.matching.Lineage``.
        """
        table: Table = dict(read_lineage(self._state.history))
        return table | {"event": [EVENTS[int(code)] for code in table["event"]]}

    def assign(self, vectors: np.ndarray) -> Assignment:
        """Tell which cluster each vector would join, (n, D), of any length but 0; nothing changes.

        Raises ``DataError`` for vectors of another dimension, and for values that are not finite.
        """
        given = np.atleast_2d(np.asarray(vectors))
        dim = self._dim
        if given.ndim != 2 or given.shape[1] != dim or given.dtype.kind not in "fiu":
            raise DataError(f"vectors of shape {given.shape} and type {given.dtype}: expected (n, {dim}) numbers")
        parts = [self._assign(given[begin : begin + self._batch], begin) for begin in range(0, len(given), self._batch)]
        if not parts:
            return Assignment(np.empty(0, np.int64), np.empty((0, 3), np.int64), np.empty((0, 3), np.float32))
        return Assignment(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def update(self, features: np.ndarray | str | Path, **how: Any) -> Update:
        """Add rows: an (n, D) array, or the path of any supported source. ``how``: as in ``engine.commands.updates``.

        Of an array rows are named by the next numbers, which only a collection without ids of its own takes.
        """
        if isinstance(features, str | Path):
            return self._changed(features=features, **how)
        with tempfile.TemporaryDirectory(prefix="asterism-") as folder:
            path = Path(folder) / "rows.npy"
            np.save(path, np.asarray(features), allow_pickle=False)
            return self._changed(features=path, **how)

    def remove(self, ids: Iterable[Any], **how: Any) -> Update:
        """Remove rows by their ids; nothing of them is left in the run's folder."""
        with tempfile.TemporaryDirectory(prefix="asterism-") as folder:
            path = Path(folder) / "ids.txt"
            path.write_text("".join(f"{each}\n" for each in ids), "utf-8")
            return self._changed(remove=path, **how)

    def _changed(self, **how: Any) -> Update:
        self._forget()
        done = update(self.root, **{"progress": False, **how})
        self._version = current_version(self.root, lambda: kept_of(self.root))
        return done

    def _forget(self) -> None:
        for name in ("labels", "row_ids", "_state", "_explained", "_scorer"):
            self.__dict__.pop(name, None)

    @cached_property
    def _state(self) -> State:
        return self._version.open(self.root, room=self._batch, threads=self.threads)

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(self._state)

    @property
    def _batch(self) -> int:
        return batch_rows(len(self.labels))

    @property
    def _dim(self) -> int:
        return int(self._state.dim)

    def _assign(self, given: np.ndarray, first: int) -> Assignment:
        rows = normalise(np.ascontiguousarray(given), first, "vectors")
        return assign_batch(self._state, rows.unit_ND, rows.zeros, self._scorer, self.threads)

    @cached_property
    def _explained(self) -> tuple[RowTable, ClusterTable]:
        state, learned = self._state, self._version.kept.learned

        def edges() -> Iterator[ScoredEdges]:
            for sources, targets, scores in state.edges():
                evidence = scores if learned else edge_weights(scores, "exponential", bandwidth=COSINE_BANDWIDTH)
                yield ScoredEdges(state.row_numbers[sources], state.row_numbers[targets], scores, evidence)
            rows = np.flatnonzero(state.leaders_N != np.arange(state.num_rows)).astype(np.int32)
            certain = np.ones(len(rows), np.float32)
            yield ScoredEdges(state.leaders_N[rows], rows, certain, certain)

        return explain_labels(self.labels, edges)


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
    resources: Resources | None = None,
) -> tuple[str, int]:
    """Write which cluster each vector of a source would join, as Parquet or CSV; return the place and the rows.

    Columns: ``row``, ``id`` if the source has ids, ``cluster`` (-1: a new one), and ``nearest_1``, ``probability_1`` to
    ``_3``. The source is read, and the table written, block by block.
    """
    kind = choose_format(out, None, TABLES)
    collection = Collection(root, threads=(resources or load_resources(None)).threads)
    source = open_source(local_copy(features), dim=dim, column=column)
    place = out_file(out, never=[str(collection.root), str(features)])
    if source.dim != collection._dim:
        raise DataError(f"{features}: vectors of {source.dim} dimensions, the collection's have {collection._dim}")
    ids = source.ids()

    def blocks() -> Iterator[Mapping[str, Any]]:
        for begin in range(0, source.num_rows, CHUNK_ROWS):
            end = min(begin + CHUNK_ROWS, source.num_rows)
            found = collection.assign(source.read(begin, end))
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
