"""What people decided about rows of a version, and what a file of decisions adds to it. P pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import DataError
from engine.steps.decisions import settle
from engine.storage.decisions import Decision, read_decisions
from engine.storage.row_ids import RowIds

Array = np.ndarray[Any, Any]


def joined_answers(ids: RowIds, pairs: Array, same: Array, path: str, *, removed: bool) -> tuple[Array, Array]:
    """Add the decisions of a file to those that a version holds: pairs of rows (P, 2) int64, and which are the same.

    The file has the last word on a pair. ``removed``: rows were removed, so decisions about rows that are not there are
    left out. Raises ``DataError`` for such a decision otherwise, and for decisions that contradict each other.
    """
    named = ids.texts(pairs.ravel())
    held = [
        Decision("same" if alike else "different", a, b)
        for alike, a, b in zip(same.tolist(), named[::2], named[1::2], strict=True)
    ]
    told = read_decisions(path)
    left = without_rows(told, ids)
    if len(left) < len(told) and not removed:
        names = [name for each in told for name in (each.a, each.b)]
        missing = next(name for name, row in zip(names, ids.find_texts(names).tolist(), strict=True) if row < 0)
        raise DataError(f"{path}: names row {missing!r}, but no row of the collection has this id")
    settled = settle([*held, *left], path, first=-len(held))
    rows = ids.find_texts([name for each in settled for name in (each.a, each.b)])
    return rows.reshape(-1, 2), np.array([each.decision != "different" for each in settled], np.bool_)


def without_rows(told: list[Decision], ids: RowIds) -> list[Decision]:
    """The decisions about rows that are there."""
    rows = ids.find_texts([name for each in told for name in (each.a, each.b)]).tolist()
    return [each for each, a, b in zip(told, rows[::2], rows[1::2], strict=True) if a >= 0 and b >= 0]
