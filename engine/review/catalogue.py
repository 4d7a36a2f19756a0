"""What a review reads of a finished run: clusters, their rows and neighbours, and the questions. Nothing is changed.

Arrays are mapped, so that a run of millions of clusters opens at once. N rows, C clusters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.report_data import picture_cells, picture_folders
from engine.commands.run_folder import labels_of, stage_folder, vectors_folder
from engine.errors import DataError
from engine.report.images import Pictures
from engine.steps.ingest import row_column
from engine.steps.questions import COLUMNS
from engine.storage import manifest
from engine.storage.arrays import map_array
from engine.storage.context import read_npy, table_parts
from engine.storage.decisions import find_text
from engine.storage.tables import read_columns

SHOWN_ROWS = 24  # of a cluster beside another
PAGE_ROWS = 120  # of a cluster on its own page
MEDOID_ROWS = 2_000  # of a larger cluster, evenly drawn, the medoid is found among
NEIGHBOURS = 8
MOST_CHARACTERS = 400
MOST_FOUND = 30

Tree = dict[str, Any]


class Catalogue:
    """The clusters of a finished run. Raises ``DataError`` if the run is not finished, or has no questions."""

    def __init__(self, root: Path) -> None:
        self.root, held = root, manifest.read_run(root)
        self.labels_N = labels_of(root, root)
        explained = stage_folder(root, "explain", "confidence.npy", "nearest.npy", "clusters")
        asked = stage_folder(root, "questions", "questions", "members.npy", "starts.npy")
        if explained is None or asked is None:
            raise DataError(f"{root} is not finished, or was made by a version without reviews: asterism resume {root}")
        self._confidence_N, self._nearest_N = read_npy(explained, "confidence"), read_npy(explained, "nearest")
        self._members_N, self._starts_C = read_npy(asked, "members"), read_npy(asked, "starts")
        (clusters,) = table_parts(explained, "clusters")
        names = ("confidence", "cohesion", "weakest_score", "nearest", "affinity")
        self._clusters = dict(zip(names, read_columns(clusters, names), strict=True))
        (questions,) = table_parts(asked, "questions")
        self.questions = dict(zip(COLUMNS, read_columns(questions, COLUMNS), strict=True))
        vectors = vectors_folder(root, "rows")
        self._features_ND = map_array(vectors, "features")
        self._ids, self._items = row_column(vectors, "id"), row_column(vectors, "item")
        self._pictures = Pictures(picture_folders(held, ()), picture_cells(held))

    @property
    def num_rows(self) -> int:
        return len(self.labels_N)

    @property
    def num_clusters(self) -> int:
        return len(self._starts_C) - 1

    def id_of(self, row: int) -> str:
        """Return the id that decisions name a row by."""
        return str(row) if self._ids is None else str(self._ids[row].as_py())

    def members(self, label: int) -> np.ndarray:
        """Return the rows of a cluster, ascending. Raises ``DataError`` for a label that no cluster has."""
        if not 0 <= label < self.num_clusters:
            raise DataError(f"there is no cluster {label}; labels go from 0 to {self.num_clusters - 1}")
        return np.asarray(self._members_N[self._starts_C[label] : self._starts_C[label + 1]])

    def medoid(self, rows: np.ndarray) -> int:
        """Return the row nearest to the mean direction of the rows, of a sample of them if they are many."""
        drawn = rows[:: -(-len(rows) // MEDOID_ROWS)]
        vectors = np.asarray(self._features_ND[drawn], np.float32)
        return int(drawn[(vectors @ vectors.mean(axis=0)).argmax()])

    def question(self, place: int) -> Tree:
        """Describe a question, with the rows on either side of it."""
        kind, row, other = (int(self.questions[name][place]) for name in ("kind", "row", "other_row"))
        label, other_label = int(self.labels_N[row]), int(self.labels_N[other])
        if kind == 1:
            sides = [self._side(self.members(label), row), self._side(self.members(other_label), other)]
        elif kind == 0:
            rows = self.members(label)
            first = self._nearer(rows, row, other)
            sides = [self._side(rows[first], row), self._side(rows[~first], other)]
        else:
            sides = [self._side(np.array([row]), row), self._side(np.array([other]), other)]
        return {
            "place": place,
            "kind": ("split", "merge", "sample")[kind],
            "rows": [row, other],
            "labels": [label, other_label],
            "said": float(self.questions["said"][place]),
            "chance": float(self.questions["chance"][place]),
            "pairs": int(self.questions["pairs"][place]),
            "sides": sides,
        }

    def cluster(self, label: int, start: int = 0) -> Tree:
        """Describe a cluster: its numbers, its rows from the most doubtful on, and its neighbours."""
        rows = self.members(label)
        medoid = self.medoid(rows)
        ordered = self._doubtful(rows[rows != medoid])
        numbers = {name: _number(self._clusters[name][label]) for name in ("confidence", "cohesion", "weakest_score")}
        leaning = self._nearest_N[rows]
        labels, counts = np.unique(leaning[leaning >= 0], return_counts=True)
        nearest = labels[np.lexsort((labels, -counts))][:NEIGHBOURS]
        shares = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        return {
            "label": label,
            "size": len(rows),
            **numbers,
            "medoid": self.row(medoid),
            "rows": [self.row(row) for row in ordered[start : start + PAGE_ROWS].tolist()],
            "start": start,
            "more": max(len(ordered) - start - PAGE_ROWS, 0),
            "neighbours": [{**self.preview(int(other)), "leaning": shares[int(other)]} for other in nearest],
        }

    def preview(self, label: int) -> Tree:
        """Describe a cluster by its medoid."""
        rows = self.members(label)
        return {"label": label, "size": len(rows), "medoid": self.row(self.medoid(rows))}

    def row(self, row: int) -> Tree:
        """Describe a row: its id, its text or picture, and how sure its cluster is of it."""
        text = "" if self._items is None else str(self._items[row].as_py() or "")
        image = self._pictures.find(text)
        return {
            "row": row,
            "id": self.id_of(row),
            "label": int(self.labels_N[row]),
            "text": "" if image else text[:MOST_CHARACTERS],
            "image": image,
            "confidence": _number(self._confidence_N[row]),
        }

    def search(self, text: str) -> list[Tree]:
        """Find rows by number, by id or by a part of their text, in this order, and clusters by label."""
        rows: list[int] = []
        if text.isascii() and text.isdigit() and int(text) < self.num_rows:
            rows.append(int(text))
        for column, whole in ((self._ids, True), (self._items, False)):
            if column is not None and text:
                rows += find_text(column, text, MOST_FOUND, whole=whole)
        return [self.row(row) for row in list(dict.fromkeys(rows))[:MOST_FOUND]]

    def _side(self, rows: np.ndarray, asked: int) -> Tree:
        medoid = self.medoid(rows)
        first = list(dict.fromkeys([asked, medoid]))
        rest = self._doubtful(rows[~np.isin(rows, first)])[: SHOWN_ROWS - len(first)]
        shown = [self.row(row) for row in [*first, *rest.tolist()]]
        return {"size": len(rows), "asked": asked, "medoid": medoid, "rows": shown, "label": int(self.labels_N[asked])}

    def _doubtful(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(self._confidence_N[rows], kind="stable")]

    def _nearer(self, rows: np.ndarray, row: int, other: int) -> np.ndarray:
        """Tell which rows are nearer to the first of two rows; each of the two is nearest to itself."""
        ends = np.asarray(self._features_ND[[row, other]], np.float32)
        cosines = np.asarray(self._features_ND[rows], np.float32) @ ends.T
        nearer: np.ndarray = cosines[:, 0] >= cosines[:, 1]
        nearer[rows == row], nearer[rows == other] = True, False
        return nearer


def _number(value: Any) -> float | None:
    """Return a number that JSON has, or ``None`` for NaN."""
    return None if np.isnan(value) else float(value)
