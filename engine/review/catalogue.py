"""What a review shows: clusters, their rows and neighbours, and the questions. N rows, C clusters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.storage.decisions import find_text

Array = np.ndarray[Any, Any]

SHOWN_ROWS = 24  # of a cluster beside another
PAGE_ROWS = 120  # of a cluster on its own page
MEDOID_ROWS = 2_000  # of a larger cluster, evenly drawn, the medoid is found among
NEIGHBOURS = 8
MOST_CHARACTERS = 400
MOST_FOUND = 30

Tree = dict[str, Any]


@dataclass(frozen=True)
class Contents:
    """What a catalogue is of: clusters, by ascending label, and their rows.

    ``labels_N``: -1 is no cluster. ``names_C``: the labels, ``None`` if they are 0 to C - 1. ``members_N``: rows by
    label, then by row; cluster c's begin at ``starts_C[c]``. ``confidence_N``, ``nearest_N`` (labels) and the columns
    of ``clusters``: as ``engine.evaluation.explain`` has them. ``questions``: columns by name, as the step has them.
    ``vectors`` gives rows' vectors; ``ids``, ``items``: Arrow columns, ``None`` without any. ``picture`` gives a row's
    picture, from its text. ``numbered``: people know rows by their numbers, too.
    """

    labels_N: Array
    names_C: Array | None
    members_N: Array
    starts_C: Array
    confidence_N: Array
    nearest_N: Array
    clusters: dict[str, Array]
    questions: dict[str, Array]
    vectors: Callable[[Array], Array]
    ids: Any
    items: Any
    picture: Callable[[int, str], str | None]
    numbered: bool


class Catalogue:
    """The clusters of a finished run, or of the last version of its collection."""

    def __init__(self, contents: Contents) -> None:
        self._held = contents
        self.labels_N, self.questions = contents.labels_N, contents.questions

    @property
    def num_rows(self) -> int:
        return len(self.labels_N)

    @property
    def num_clusters(self) -> int:
        return len(self._held.starts_C) - 1

    def id_of(self, row: int) -> str:
        """Return the id that decisions name a row by."""
        return str(row) if self._held.ids is None else str(self._held.ids[row].as_py())

    def members(self, label: int) -> np.ndarray:
        """Return the rows of a cluster, ascending. Raises ``DataError`` for a label that no cluster has."""
        place, starts = self._place(label), self._held.starts_C
        return np.asarray(self._held.members_N[starts[place] : starts[place + 1]])

    def _place(self, label: int) -> int:
        """Return the place of a cluster among all."""
        names, last = self._held.names_C, self.num_clusters - 1
        place = label if names is None else int(np.searchsorted(names, label))
        if not 0 <= place <= last or (names is not None and names[place] != label):
            last = last if names is None else int(names.max(initial=-1))
            raise DataError(f"there is no cluster {label}; labels go from 0 to {last}")
        return place

    def medoid(self, rows: np.ndarray) -> int:
        """Return the row nearest to the mean direction of the rows, of a sample of them if they are many."""
        drawn = rows[:: -(-len(rows) // MEDOID_ROWS)]
        vectors = np.asarray(self._held.vectors(drawn), np.float32)
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
        place, columns = self._place(label), self._held.clusters
        numbers = {name: _number(columns[name][place]) for name in ("confidence", "cohesion", "weakest_score")}
        leaning = self._held.nearest_N[rows]
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
        text = "" if self._held.items is None else str(self._held.items[row].as_py() or "")
        image = self._held.picture(row, text)
        return {
            "row": row,
            "id": self.id_of(row),
            "label": int(self.labels_N[row]),
            "text": "" if image else text[:MOST_CHARACTERS],
            "image": image,
            "confidence": _number(self._held.confidence_N[row]),
        }

    def search(self, text: str) -> list[Tree]:
        """Find rows by number, by id or by a part of their text, in this order, and clusters by label."""
        rows: list[int] = []
        if self._held.numbered and text.isascii() and text.isdigit() and int(text) < self.num_rows:
            rows.append(int(text))
        for column, whole in ((self._held.ids, True), (self._held.items, False)):
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
        return rows[np.argsort(self._held.confidence_N[rows], kind="stable")]

    def _nearer(self, rows: np.ndarray, row: int, other: int) -> np.ndarray:
        """Tell which rows are nearer to the first of two rows; each of the two is nearest to itself."""
        ends = np.asarray(self._held.vectors(np.array([row, other])), np.float32)
        cosines = np.asarray(self._held.vectors(rows), np.float32) @ ends.T
        nearer: np.ndarray = cosines[:, 0] >= cosines[:, 1]
        nearer[rows == row], nearer[rows == other] = True, False
        return nearer


def _number(value: Any) -> float | None:
    """Return a number that JSON has, or ``None`` for NaN."""
    return None if np.isnan(value) else float(value)
