"""Ids name rows: each one row, all of one kind."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import DataError
from engine.storage.row_ids import RowIds


def test_ids_are_looked_up_joined_and_taken() -> None:
    ids = RowIds(["a", "b", "ü"]).joined(RowIds(["c"]))
    np.testing.assert_array_equal(ids.rows(["c", "a"]), [3, 0])
    assert ids.take(np.array([2, 0])).to_list() == ["ü", "a"]
    np.testing.assert_array_equal(ids.find(RowIds(["x", "b"])), [-1, 1])
    np.testing.assert_array_equal(RowIds.numbered(5, 8).rows(["6", 7]), [1, 2])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RowIds(["a", "b", "a"], "x.parquet"), "x.parquet: id 'a' .* row 0 and at row 2"),
        (lambda: RowIds(["a", None], "x.parquet"), "row 1 has no id"),
        (lambda: RowIds([0.5], "x"), "texts or integers"),
        (lambda: RowIds(["a"]).joined(RowIds(["b", "a"], "new")), "new: row 1 has the id 'a'"),
        (lambda: RowIds(["a"]).joined(RowIds.numbered(0, 1)), "ids are integers"),
        (lambda: RowIds(["a"]).rows(["b"]), "id 'b' is not in the collection"),
        (lambda: RowIds.numbered(0, 3).rows(["one"]), "are integers"),
    ],
)
def test_what_names_no_row_or_two_is_refused(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=words):
        make()
