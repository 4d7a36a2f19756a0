"""Counters of a run, by stage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.executors.protocol import Outcome, attempt
from tests.support.toy_stages import make_calls

pytest.importorskip("ray", reason="Ray is not installed: pip install 'asterism-clustering[ray]'")

from engine.executors.ray import counters


def test_every_attempt_is_counted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counted: Counter[tuple[str, str]] = Counter()

    class Counted:
        def __init__(self, name: str, *_: Any) -> None:
            self._name = name

        def inc(self, value: float, tags: dict[str, str]) -> None:
            counted[self._name, tags["stage"]] += value  # type: ignore[assignment]

    monkeypatch.setattr(counters, "Counter", Counted)
    found = counters.TaskCounters()
    (call,) = make_calls(tmp_path, "count_up", 10)
    (bad,) = make_calls(tmp_path, "refuse", 10)
    for outcome in (attempt(call), attempt(bad), Outcome(call, error=OSError(), retry=True, lost=True)):
        found.count(outcome)
    assert counted.pop(("asterism_task_seconds", "count_up")) > 0
    assert counted == {
        ("asterism_tasks_committed", "count_up"): 1, ("asterism_rows_committed", "count_up"): 10,
        ("asterism_tasks_failed", "refuse"): 1, ("asterism_tasks_retried", "count_up"): 1,
    }  # fmt: skip
