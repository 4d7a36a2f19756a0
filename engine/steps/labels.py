"""Steps of identities, which a user gives, and of labels, which the run gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.labels import dense_labels, expand_labels
from engine.errors import DataError
from engine.runs.step import F, Step, Task, where
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_row
from engine.steps.ingest import Rows, bad_rows, zero_rows
from engine.steps.knn import Order, by_vertex, vertex_rows
from engine.steps.source import files_at, version_of
from engine.storage.cache import local_copy
from engine.storage.formats.label_files import read_labels
from engine.storage.manifest import file_checksum
from engine.storage.remote import absolute

_SMALL = 4 << 20


@dataclass(frozen=True)
class OutsideFile:
    """A labels file or KNN graph besides the source: the digest of its content enters fingerprints, not its path."""

    path: str
    digest: str
    column: str | None = None
    version: str = ""

    @classmethod
    def describe(cls, path: str | Path | None, column: str | None = None) -> OutsideFile | None:
        """Checksum a file, or the files of a folder, at a path or URL; ``None`` for no path."""
        if path is None:
            return None
        found = local_copy(path)
        files = files_at(found)
        version = version_of(found, files)
        return cls(absolute(path), "+".join(file_checksum(file) for file in files), column, version)

    def given(self) -> dict[str, Any]:
        """Give the fields of a step that reads the file's labels."""
        return {"labels": self.digest, "labels_path": self.path, "labels_column": self.column}


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled(Step[F]):
    """A step that reads the identities of ``--labels``; ``labels`` is the file's digest, ``None`` without a file."""

    labels: str | None = None
    labels_path: str = where("")
    labels_column: str | None = where(None)

    def identities(self, order: Order | None, task: Task) -> np.ndarray:
        """Read identities (N,) int64, by vertex if there is an ``order``; raises ``DataError`` if none is known."""
        identities_N = read_labels(self.labels_path, column=self.labels_column)
        if (identities_N < 0).all():
            raise DataError(f"{self.labels_path}: every label is -1; training needs identities")
        return by_vertex(task, identities_N, order)

    def truth(self, num_rows: int) -> np.ndarray | None:
        """Read identities (N,) int64 by source row; ``None`` if none are given."""
        return read_labels(self.labels_path, num_rows, column=self.labels_column) if self.labels else None


def dropped_rows(folder: Path, zero_vectors: str) -> np.ndarray:
    """The rows of an ingested source, ascending, that get no label."""
    return zero_rows(folder) if zero_vectors == "drop" else bad_rows(folder)


@dataclass(frozen=True)
class LabelFacts:
    """Number and sizes of the clusters; dropped rows have no cluster."""

    num_clusters: int
    num_singletons: int
    largest: int
    num_dropped: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels(Step[LabelFacts]):
    """The clusters, numbered by their first source row: ``labels`` (N,) int64, source order; dropped rows get -1.

    ``roots`` is the step that clusters: it holds ``roots`` (N,), the lowest vertex of each vertex's cluster. A copy
    gets the label of the row that stands for it.
    """

    kind, version, title = "labels", 4, "labels"
    facts = LabelFacts
    roots: Step[dict[str, object]]
    rows: Rows
    order: Order | None
    zero_vectors: str
    copies: Copies | None = None

    def cost(self) -> Cost:
        """Project the roots and their numbering."""
        n = self.rows.num_rows
        return Cost(fixed_bytes=n * 60 + _SMALL, disk_bytes=n * 8, seconds=n / 3e6)

    def run(self, task: Task, start: int, stop: int) -> LabelFacts:
        """Number the clusters."""
        labels = dense_labels(roots_by_row(task, np.array(task.npy(self.roots, "roots")), self.order, self.copies))
        dropped = dropped_rows(task.input(self.rows), self.zero_vectors)
        if len(dropped):
            kept = np.setdiff1d(np.arange(len(labels)), dropped)
            if not len(kept):
                raise DataError(f"{self.rows.path}: none of {len(labels):,} rows has a direction; all were dropped")
            renumbered = np.unique(labels[kept], return_inverse=True)[1].astype(np.int64)
            labels = expand_labels(renumbered, kept, len(labels))
        task.write_npy("labels", labels)
        sizes = np.bincount(labels[labels >= 0])
        return LabelFacts(len(sizes), int((sizes == 1).sum()), int(sizes.max(initial=0)), int((labels < 0).sum()))


def roots_by_row(task: Task, roots_N: np.ndarray, order: Order | None, copies: Copies | None) -> np.ndarray:
    """For each row the first row of its cluster, from the lowest vertex of each vertex's cluster.

    A copy is where the row is that stands for it.
    """
    if order is not None:
        by_row_N = np.empty_like(roots_N)
        by_row_N[vertex_rows(task, order)] = roots_N
        first_N = np.empty_like(roots_N)
        first_N[by_row_N[::-1]] = np.arange(len(roots_N) - 1, -1, -1, dtype=roots_N.dtype)
        roots_N = first_N[by_row_N]
    return roots_N if copies is None else roots_N[leaders_by_row(task, copies)]
