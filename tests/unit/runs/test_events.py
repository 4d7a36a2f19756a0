from __future__ import annotations

from pathlib import Path

from engine.runs.events import EventLog, read_events
from engine.storage.places import Place


def test_events_are_appended_in_order(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    EventLog(Place(tmp_path)).write("run_started", kind="run", executor="local", pid=1)
    EventLog(Place(tmp_path)).write("run_failed", error=ValueError("x"), where=Path("a"))
    events = read_events(tmp_path)
    assert [event["event"] for event in events] == ["run_started", "run_failed"]
    assert events[1]["where"] == "a"
    assert events[0]["time"] <= events[1]["time"]


def test_a_line_cut_off_loses_no_other(tmp_path: Path) -> None:
    EventLog(Place(tmp_path)).write("one")
    with open(tmp_path / "events.jsonl", "a") as stream:
        stream.write('{"time": 1.0, "eve')
    EventLog(Place(tmp_path)).write("two")
    assert [event["event"] for event in read_events(tmp_path)] == ["one", "two"]
