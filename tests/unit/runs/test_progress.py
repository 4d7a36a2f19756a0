from __future__ import annotations

import io
import logging
import sys
import threading
import types

import pytest

from engine.runs import progress
from engine.runs.progress import Bars, Display, Logged, Plain, Quiet, Ticker, make_display, rate_and_left
from engine.stages import Cost, Stage

STAGE = Stage("knn", "m:f", 1, {}, {}, 1_000, Cost(), block_rows=100)
ONE_TASK = Stage("fit", "m:f", 1, {}, {}, 1, Cost(), granule=1, block_rows=1)


def test_rate_and_time_left_count_what_this_run_did() -> None:
    assert rate_and_left(STAGE, 0.75, 500, 10.0) == ("25 rows/s,", "0:10 left")
    assert rate_and_left(STAGE, 0.5, 500, 10.0) == ("", "")
    assert rate_and_left(ONE_TASK, 0.25, 0, 60.0) == ("", "3:00 left")
    assert rate_and_left(ONE_TASK, 0.25, 0, 59.9) == ("", "3:00 left")


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    display = Plain(stream)
    display.begin(STAGE, 500)
    clock[0] += 5
    display.advance(STAGE, 100)
    clock[0] += 5
    display.advance(STAGE, 100)
    display.end(STAGE, 12.0, 2_500_000_000, skipped=False)
    display.end(STAGE, 0.0, 0, skipped=True)
    assert stream.getvalue().splitlines() == [
        "knn: 1,000 rows in 10 tasks, 500 rows already committed",
        "knn: 70% 20 rows/s, 0:15 left",
        "knn: done in 12.0 s, peak 2.50 GB",
        "knn: already committed",
    ]


def test_bars_take_any_order_of_calls() -> None:
    display = Bars()
    display.end(STAGE, 0.0, 0, skipped=True)
    display.begin(ONE_TASK, 0)
    display.note(ONE_TASK, 0.5, "loss 0.1")
    display.advance(ONE_TASK, 1)
    display.end(ONE_TASK, 1.0, 10**9, skipped=False)
    display.message("text [with brackets]")
    display.close()


def test_where_progress_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(inner(make_display(False)), Quiet)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(inner(make_display(True)), Plain)


def inner(display: Display) -> Display:
    assert isinstance(display, Logged)
    return display.display


def test_a_notebook_has_one_bar_and_then_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    class ZMQInteractiveShell:
        pass

    class Handle:
        def update(self, page: dict[str, str], raw: bool) -> None:
            drawn.append(page["text/plain"])

    def show(page: dict[str, str], raw: bool, display_id: bool = False) -> Handle | None:
        drawn.append(page["text/plain"])
        assert "<script" not in page.get("text/html", "")
        return Handle() if display_id else None

    drawn: list[str] = []
    module = types.ModuleType("IPython.display")
    module.display = show  # type: ignore[attr-defined]
    package = types.ModuleType("IPython")
    package.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress, "NOTEBOOK_INTERVAL_S", 0.0)
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    display = make_display(True)
    display.begin(STAGE, 500)
    clock[0] += 10
    display.advance(STAGE, 200)
    display.message("a note")
    display.end(STAGE, 12.0, 2_500_000_000, skipped=False)
    display.note(ONE_TASK, 0.5, "<script>")
    display.close()
    assert drawn == ["knn: 50%", "knn: 70% 20 rows/s, 0:15 left", "a note", "fit: 50% <script>",
                     "1 stages in 10.0 s: 100% peak 2.50 GB"]  # fmt: skip


def test_one_logger_tells_what_runs_do(caplog: pytest.LogCaptureFixture) -> None:
    display = make_display(False)
    with caplog.at_level("INFO", "asterism"):
        display.begin(STAGE, 0)
        display.message("the run's file was damaged\x1b[2J")
        display.end(STAGE, 12.0, 2_500_000_000, skipped=False)
        display.end(STAGE, 0.0, 0, skipped=True)
    assert caplog.record_tuples == [
        ("asterism", logging.INFO, "the run's file was damaged\\x1b[2J"),
        ("asterism", logging.INFO, "knn: done in 12.0 s, peak 2.50 GB"),
    ]


def test_the_ticker_polls_and_stops() -> None:
    polled = threading.Event()
    with Ticker(polled.set):
        assert polled.wait(30)
    assert not any(thread.name == "progress" for thread in threading.enumerate())
