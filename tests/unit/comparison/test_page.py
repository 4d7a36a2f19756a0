"""The page of a comparison shows names and messages as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.comparison.page import ComparisonRow, render_comparison
from engine.evaluation.metrics import evaluate_labels

HOSTILE = "<script>x('&')</script>"


def test_hostile_text_stays_text() -> None:
    scores: Any = evaluate_labels(np.array([0, 0, 1]), np.array([0, 0, 1])).as_dict()
    rows = [
        ComparisonRow(f"ran {HOSTILE}", scores, 1.0, 1.0, 1 << 20, {"partition": HOSTILE}),
        ComparisonRow(f"missing {HOSTILE}", missing=f"because {HOSTILE}"),
    ]
    found = {"seed": 0, "settings": {"knn.mode": HOSTILE}, "written": HOSTILE, "hardware": {"cpu": HOSTILE},
             "versions": {"x": HOSTILE}}  # fmt: skip
    counts = {"train_rows": 3, "test_rows": 3, "unknown_rows": 1}
    html = render_comparison(Path("/data", HOSTILE), rows, counts, found, {f"ran {HOSTILE}": f'runs/"{HOSTILE}.html'})
    assert "<script>x" not in html
    assert html.count("&lt;script&gt;x(") >= 8
    assert 'href="runs/"' not in html
