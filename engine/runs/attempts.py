"""Run the tasks of a stage until all are committed, or until a task has failed too often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from engine.errors import EngineError, TaskFailed
from engine.executors.protocol import Executor, Outcome
from engine.runs.events import EventLog
from engine.runs.progress import Display
from engine.stages import Stage
from engine.storage.context import TaskCall, committed_records
from engine.storage.manifest import Record
from engine.storage.places import Place

ATTEMPTS = 4
LOST_ATTEMPTS = 12  # of a task whose worker died, which may not be the task's fault


def run_calls(
    calls: Sequence[TaskCall], stage: Stage, place: Place, executor: Executor, display: Display, events: EventLog
) -> int:
    """Run a stage's calls, again if another attempt can help; log every attempt as an event.

    Returns the peak memory of a worker that is a process of its own, else 0. Raises ``TaskFailed`` with the causes of
    repeated failures, or the task's own ``EngineError``.
    """
    folder, peak_bytes = place.root / stage.folder, 0

    def note_commit(record: Record, outcome: Outcome) -> None:
        nonlocal peak_bytes
        place.note(folder, record)
        peak_bytes = max(peak_bytes, outcome.peak_bytes)
        peak = {"peak_bytes": outcome.peak_bytes} if outcome.peak_bytes else {}
        events.write("task_committed", **_about(outcome, attempt), seconds=record.seconds, **peak)
        display.advance(stage, record.stop - record.start)

    spent: Counter[tuple[int, bool]] = Counter()
    attempt = 0
    while calls:
        attempt += 1
        failed: list[Outcome] = []
        for outcome in executor.run(calls):
            if outcome.record is not None:
                note_commit(outcome.record, outcome)
                continue
            lost = {"lost": True, "lost_s": round(outcome.lost_s, 3)} if outcome.lost else {}
            error = f"{type(outcome.error).__name__}: {outcome.error}"
            events.write("task_failed", **_about(outcome, attempt), **lost, error=error)
            failed.append(outcome)
            if not outcome.retry:
                raise _failure(stage, [outcome], attempt)
        spent.update((outcome.call.start, outcome.lost) for outcome in failed)
        hopeless = [o for o in failed if spent[o.call.start, o.lost] >= (LOST_ATTEMPTS if o.lost else ATTEMPTS)]
        if hopeless:
            raise _failure(stage, hopeless, attempt)
        # A worker may have committed its task before it was lost.
        records: list[Record] = []
        if any(outcome.lost for outcome in failed):
            place.fetch_records(folder, again=True)
            records = committed_records(folder, stage.digest)
        there = {(record.start, record.stop): record for record in records}
        calls = []
        for outcome in failed:
            record = there.get((outcome.call.start, outcome.call.stop))
            if record is None:
                calls.append(outcome.call)
            else:
                note_commit(record, outcome)
    return peak_bytes


def _about(outcome: Outcome, attempt: int) -> dict[str, Any]:
    call = outcome.call
    return {
        "stage": call.stage,
        "start": call.start,
        "stop": call.stop,
        "attempt": attempt,
        "host": outcome.host,
        "pid": outcome.pid,
    }


def _failure(stage: Stage, failed: Sequence[Outcome], attempts: int) -> BaseException:
    first = failed[0]
    if isinstance(first.error, EngineError):
        return first.error
    causes: dict[str, list[str]] = {}
    for outcome in failed:
        cause = f"{type(outcome.error).__name__}: {outcome.error}"
        causes.setdefault(cause, []).append(f"{outcome.call.start}..{outcome.call.stop}")
    grouped = "; ".join(f"{cause} (rows {', '.join(blocks[:5])})" for cause, blocks in causes.items())
    error = TaskFailed(
        f"stage {stage.name} failed after {attempts} attempt(s): {grouped}; what was committed is kept, run again to "
        f"resume\n{first.details}".rstrip()
    )
    error.__cause__ = first.error
    return error
