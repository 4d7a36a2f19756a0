"""The run's event log: one JSON object per line, appended as things happen."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.process.masking import masked
from engine.storage.manifest import explain_os_errors
from engine.storage.owned import tree_checksum
from engine.storage.paths import check_file, explain_reading
from engine.storage.places import Place

EVENTS_FILE = "events.jsonl"
MOST_LINE_BYTES = 1 << 20
_SUM = "sum"  # key of a line's checksum
PUBLISH_S = 10.0


class EventLog:
    """Appends events to ``RUN/events.jsonl``. Every event has ``time`` (Unix seconds) and ``event`` (its kind).

    Each line has a checksum of its other keys, because a checksum of a growing file would not last.

    The file of a run at a URL is copied there every ``PUBLISH_S``; a killed process loses later events there.
    """

    def __init__(self, place: Place) -> None:
        self._path = place.root / EVENTS_FILE
        self._place = place
        self._published = -PUBLISH_S  # so that the first event is published at once
        # A line that a full disk cut off must not absorb the next one.
        if os.path.lexists(self._path):
            check_file(self._path)
            with explain_reading(self._path), open(self._path, "rb") as stream:
                stream.seek(max(0, self._path.stat().st_size - 1))
                whole = stream.read(1) in (b"\n", b"")
            if not whole:
                self._append("\n")

    def write(self, event: str, **values: Any) -> None:
        """Append one event. The line goes to the system at once, so that a killed process loses none."""
        tree = json.loads(json.dumps({"time": round(time.time(), 3), "event": event, **masked(values)}, default=str))
        self._append(json.dumps({**tree, _SUM: tree_checksum(tree)[:16]}) + "\n")
        if time.monotonic() - self._published >= PUBLISH_S:
            self.publish()

    def publish(self) -> None:
        """Copy the events so far to where other hosts see them."""
        self._published = time.monotonic()
        self._place.publish(self._path)

    def _append(self, text: str) -> None:
        with explain_os_errors(self._path), open(self._path, "a", encoding="utf-8") as stream:
            stream.write(text)


def read_events(root: Path) -> list[dict[str, Any]]:
    """Read all events of a run; skip a line that is damaged or was cut off by a kill.

    A lost event costs a figure but no result, because results do not depend on events. Raises ``DataError`` if the
    place is not a regular file.
    """
    path = root / EVENTS_FILE
    if not os.path.lexists(path):
        return []
    check_file(path)
    events = []
    with explain_reading(path), open(path, "rb") as stream:
        while line := stream.readline(MOST_LINE_BYTES):
            if (event := _parse(line)) is not None:
                events.append(event)
    return events


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        tree = json.loads(line)
        checksum = tree.pop(_SUM)
        if checksum != tree_checksum(tree)[:16]:
            return None
        _TYPES.get(tree.get("event"), _ANY).validate_python(tree)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return dict(tree)


class _Event(BaseModel):
    """The keys of every event; the events that are read have more."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    time: float
    event: str


class _Started(_Event):
    executor: str
    kind: str


class _StageFinished(_Event):
    stage: str
    digest: str
    peak_bytes: Annotated[int, Field(ge=0)]
    tasks_run: Annotated[int, Field(ge=0)]


class _Committed(_Event):
    stage: str
    host: str = "unknown"


class _Failed(_Event):
    stage: str
    lost: bool = False
    lost_s: Annotated[float, Field(ge=0)] = 0.0


_ANY = TypeAdapter(_Event)
_TYPES: dict[Any, TypeAdapter[Any]] = {
    "run_started": TypeAdapter(_Started),
    "stage_finished": TypeAdapter(_StageFinished),
    "task_committed": TypeAdapter(_Committed),
    "task_failed": TypeAdapter(_Failed),
}
