"""The executor protocol: run tasks and report each as it ends.

An executor may run tasks in any order, on any host, and more than once, because a task is a pure function whose commit
is atomic. The runner alone decides what to run.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from engine.errors import EngineError
from engine.storage.companions import StartCompanions, resolve, start_here
from engine.storage.context import TaskCall, run_call
from engine.storage.manifest import Record


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at a task: a committed ``record``, or an ``error``.

    ``retry``: another attempt can help (a worker died; not bad data, a full disk or a bug). ``lost``: the worker died
    ``lost_s`` seconds into the task. ``host`` and ``pid`` say where the task ran. ``peak_bytes`` is the memory of the
    worker, if it is a process of its own.
    """

    call: TaskCall
    record: Record | None = None
    error: BaseException | None = None
    details: str = ""
    retry: bool = False
    lost: bool = False
    lost_s: float = 0.0
    host: str = ""
    pid: int = 0
    peak_bytes: int = 0


class Executor(Protocol):
    """Runs tasks; ``tests/contracts/test_executors.py`` says what every implementation must keep."""

    name: str

    @property
    def workers(self) -> int:
        """Return the number of tasks that may run at a time."""
        ...

    @property
    def workers_asked(self) -> int:
        """Return the number of workers asked for, among which a task may share its work; 1 if the number is open."""
        ...

    def run(self, calls: Sequence[TaskCall]) -> Iterator[Outcome]:
        """Run every call once and yield outcomes as tasks end, in any order, with a bounded number in flight."""
        ...

    def close(self) -> None:
        """Release what the executor holds. A second call does nothing."""
        ...


def ray_address() -> str:
    """Return the address of the compute cluster that ``RAY_ADDRESS`` names, as in a Ray job; empty if it is not set."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def attempt(call: TaskCall, start_companions: StartCompanions = start_here) -> Outcome:
    """Run one task in this process and commit it; return errors in the outcome."""
    return replace(_attempt(call, start_companions), host=socket.gethostname(), pid=os.getpid())


def _attempt(call: TaskCall, start_companions: StartCompanions) -> Outcome:
    try:
        return Outcome(call, record=run_call(call, resolve(call.function), start_companions))
    except (EngineError, MemoryError) as error:
        return Outcome(call, error=error, details=traceback.format_exc())
    except OSError as error:
        return Outcome(call, error=error, details=traceback.format_exc(), retry=True)
    except Exception as error:
        return Outcome(call, error=error, details=traceback.format_exc())
