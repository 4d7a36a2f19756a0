"""Which rows an update scores anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from engine.collection.additions import _to_redo
from engine.graph.insertion import Insertions
from engine.graph.structural_inputs import SHARED_SCALES

SIZES = np.array([1, 5, 6, 30, 500, 500])


def redone(changed_VS: np.ndarray, rows: list[int], places: list[int]) -> list[int]:
    state: Any = SimpleNamespace(
        changed_VS=changed_VS, num_rows=len(SIZES), cluster_sizes=lambda: SIZES, kept=SimpleNamespace(k=80)
    )
    none = np.empty(0)
    return cast("list[int]", _to_redo(state, Insertions(np.array(rows), none, none, np.array(places))).tolist())


def test_a_row_is_scored_anew_once_a_tenth_of_what_matters_to_it_has_changed() -> None:
    before = np.zeros((len(SIZES) + 1, len(SHARED_SCALES)), np.int32)  # the last vertex is new
    every = [0, 1, 2, 3, 4, 6]
    assert redone(before, every, [-1] * 6) == []
    assert redone(before, every, [4] * 6) == [0, 1, 2, 6]  # one of five or ten
    assert redone(before, every, [5] * 6) == [2]
    assert redone(before, [3] * 4, [9, 19, 39, 39]) == [3]  # four of forty
    assert redone(before, [4] * 7, [9] * 7) == []
    assert redone(before, [4] * 8, [79] * 8) == [4]
    before[5] = [0, 0, 0, 0, 7]
    assert redone(before, [5], [79]) == [5]  # earlier updates count
