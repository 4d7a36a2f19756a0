"""Counters of a run by stage for Ray's Prometheus endpoints, named ``ray_asterism_...``."""

from __future__ import annotations

from ray.util.metrics import Counter

from engine.executors.protocol import Outcome

_TAGS = ("stage",)


class TaskCounters:
    """Counts the tasks of one executor."""

    def __init__(self) -> None:
        self._committed = Counter("asterism_tasks_committed", "tasks committed", _TAGS)
        self._failed = Counter("asterism_tasks_failed", "attempts that ended in an error that no retry mends", _TAGS)
        self._retried = Counter("asterism_tasks_retried", "attempts that have to be made again", _TAGS)
        self._rows = Counter("asterism_rows_committed", "rows of committed tasks", _TAGS)
        self._seconds = Counter("asterism_task_seconds", "seconds that workers spent on committed tasks", _TAGS)

    def count(self, outcome: Outcome) -> None:
        """Count one attempt."""
        tags = {"stage": outcome.call.stage}
        if outcome.record is None:
            (self._retried if outcome.retry else self._failed).inc(1, tags)
            return
        self._committed.inc(1, tags)
        self._rows.inc(outcome.call.stop - outcome.call.start, tags)
        if outcome.record.seconds > 0:
            self._seconds.inc(outcome.record.seconds, tags)
