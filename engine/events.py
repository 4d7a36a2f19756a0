"""The run's event log: one JSON object per line, appended as things happen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from engine.masking import masked
from engine.storage.manifest import explain_os_errors
from engine.storage.places import Place

EVENTS_FILE = "events.jsonl"
PUBLISH_S = 10.0


class EventLog:
    """Appends events to ``RUN/events.jsonl``. Every event has ``time`` (Unix seconds) and ``event`` (its kind).

    Of a run at a URL the file is published anew every ``PUBLISH_S``: a killed process loses what came after.
    """

    def __init__(self, place: Place) -> None:
        self._path = place.root / EVENTS_FILE
        self._place = place
        self._published = -PUBLISH_S  # so that the first event is seen at once
        # A line that a full disk cut off must not swallow the next one.
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            self._append("\n")

    def write(self, event: str, **facts: Any) -> None:
        """Append one event; the line is flushed to the system at once, so a killed process loses none."""
        self._append(json.dumps({"time": round(time.time(), 3), "event": event, **masked(facts)}, default=str) + "\n")
        if time.monotonic() - self._published >= PUBLISH_S:
            self.publish()

    def publish(self) -> None:
        """Let other hosts see the events so far."""
        self._published = time.monotonic()
        self._place.publish(self._path)

    def _append(self, text: str) -> None:
        with explain_os_errors(self._path), open(self._path, "a", encoding="utf-8") as stream:
            stream.write(text)


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
