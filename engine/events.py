"""The run's event log: one JSON object per line, appended as things happen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.jsonl"


class EventLog:
    """Appends events to ``RUN/events.jsonl``. Every event has ``time`` (Unix seconds) and ``event`` (its kind)."""

    def __init__(self, root: Path) -> None:
        self._path = root / EVENTS_FILE

    def write(self, event: str, **facts: Any) -> None:
        """Append one event; the line is flushed to the system at once, so a killed process loses none."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, default=str)
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def read_events(root: Path) -> list[dict[str, Any]]:
    """Read all complete events of a run; a line cut off by a kill is passed over."""
    path = root / EVENTS_FILE
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events
