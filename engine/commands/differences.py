"""What differs between two clusterings of rows that have the same ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.collection import named_labels
from engine.errors import DataError
from engine.storage.formats.export import TABLES, choose_format, write_table
from engine.storage.outputs import out_file, write_out

MERGED, SPLIT, MOVED, GONE, BORN = "merged", "split", "moved", "gone", "born"


@dataclass(frozen=True)
class Difference:
    """How one clustering becomes another.

    ``rows``, ``gone``, ``born``: rows of both, of the first alone, of the second alone. ``same``: clusters whose rows,
    of those that both have, are the same. ``table``: what is not, a line for each pair of clusters: ``event``,
    ``cluster`` and ``other`` (ids in the first and in the second, -1 for none), ``rows``.

    ``merged``: most of the cluster is in the other, most of which is not of it. ``split``: most of the other is of the
    cluster, most of which is not in it. ``moved``: neither. ``gone`` and ``born``: rows that only one has, by cluster.
    """

    rows: int
    gone: int
    born: int
    same: int
    table: dict[str, Any]

    def count(self, event: str) -> tuple[int, int]:
        """Count the lines of an event, and their rows."""
        lines = [at for at, name in enumerate(self.table["event"]) if name == event]
        return len(lines), int(self.table["rows"][lines].sum()) if lines else 0


def difference(root: str | Path, other: str | Path, out: str | Path | None = None) -> Difference:
    """Compare the clusters of two runs or collections, row by row of the same id; write the table to ``out``.

    Raises ``DataError`` if ids are of different kinds, or no row is in both.
    """
    first_ids, first = named_labels(root)
    second_ids, second = named_labels(other)
    if first_ids.are_texts != second_ids.are_texts:
        raise DataError(f"{root} and {other}: rows have texts as ids in one, integers in the other")
    places = first_ids.find(second_ids)
    found = compare_labels(first, second, places)
    if not found.rows:
        raise DataError(f"{root} and {other}: no row of one has the id of a row of the other")
    if out is not None:
        kind = choose_format(str(out), None, TABLES)
        place = out_file(out, never=[str(root), str(other)])
        write_out(place, lambda path: write_table(path, found.table, kind))
    return found


def compare_labels(first_N: np.ndarray, second_M: np.ndarray, places_M: np.ndarray) -> Difference:
    """Compare labels; ``places_M``: the row in the first of each row of the second, -1 for none."""
    both = places_M >= 0
    a, b = first_N[places_M[both]], second_M[both]
    gone_N = np.ones(len(first_N), np.bool_)
    gone_N[places_M[both]] = False
    names_a, a = np.unique(a, return_inverse=True)
    names_b, b = np.unique(b, return_inverse=True)
    keys, common = np.unique(a.astype(np.int64) * max(len(names_b), 1) + b, return_counts=True)
    of_a, of_b = keys // max(len(names_b), 1), keys % max(len(names_b), 1)
    size_a, size_b = np.bincount(a, minlength=len(names_a))[of_a], np.bincount(b, minlength=len(names_b))[of_b]
    same = (common == size_a) & (common == size_b)
    stays = (2 * common > size_a) & (2 * common > size_b)  # the cluster goes on in the other
    lines: list[tuple[str, int, int, int]] = []
    for at in np.flatnonzero(~same & ~stays):
        event = MERGED if 2 * common[at] > size_a[at] else SPLIT if 2 * common[at] > size_b[at] else MOVED
        lines.append((event, int(names_a[of_a[at]]), int(names_b[of_b[at]]), int(common[at])))
    for name, labels, left in ((GONE, first_N[gone_N], True), (BORN, second_M[~both], False)):
        for cluster, rows in zip(*np.unique(labels, return_counts=True), strict=True):
            lines.append((name, int(cluster), -1, int(rows)) if left else (name, -1, int(cluster), int(rows)))
    columns = list(zip(*lines, strict=True)) if lines else [(), (), (), ()]
    table: dict[str, Any] = {"event": list(columns[0])}
    table |= {name: np.array(columns[at], np.int64) for at, name in ((1, "cluster"), (2, "other"), (3, "rows"))}
    return Difference(int(both.sum()), int(gone_N.sum()), int((~both).sum()), int(same.sum()), table)
