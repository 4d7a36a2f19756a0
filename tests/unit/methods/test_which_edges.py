"""Which edges are scored: as set, else as the model stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.commands.configuration import load_settings
from engine.methods.base import which_edges
from engine.methods.model_card import Model, Nature
from engine.partitions import select


def model(facts: dict[str, Any]) -> Model:
    return Model("", "star_fc", 4, 8, "", {}, "components", Nature(**facts))


@pytest.mark.parametrize(
    ("setting", "facts", "expected"),
    [(None, None, 0.0), (None, {}, 0.0), (None, {"min_similarity": 0.3}, 0.3), (-0.5, {"min_similarity": 0.3}, -0.5)],
)
def test_a_setting_goes_before_the_models_floor(
    setting: float | None, facts: dict[str, Any] | None, expected: float
) -> None:
    settings = load_settings(None, {"score.min_similarity": setting, "score.max_edges_per_vertex": 7})
    chosen = which_edges(settings, None if facts is None else model(facts))
    assert chosen == {"min_similarity": expected, "max_edges_per_vertex": 7}


def test_all_but_a_small_share_of_the_surviving_edges_reach_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    similarities, scores = rng.random((2, 20_000), np.float32)
    parts = [(similarities[:9_000], scores[:9_000]), (similarities[9_000:], scores[9_000:])]
    monkeypatch.setattr(select, "iterate_edges", lambda _folder, _names: iter(parts))
    floor = select.similarity_floor(Path(), 0.5)
    kept = similarities[scores >= 0.5]
    assert (kept < floor).sum() == int(select.FLOOR_SHARE * len(kept)) > 0
    assert select.similarity_floor(Path(), 2.0) == 0.0
