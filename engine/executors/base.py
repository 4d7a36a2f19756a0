"""The executor protocol: run tasks somewhere, report each as it ends.

An executor may run tasks in any order, anywhere, and more than once: a task is a pure function whose commit is atomic.
It never decides what to run; the runner does.
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
    """How one attempt at a task ended: with a committed ``record``, or with an ``error``.

    ``retry`` tells whether another attempt can help (a worker died) or not (bad data, a full disk, a bug); ``lost``
    that the worker went with the task, after ``lost_s`` seconds of it. ``host`` and ``pid`` say where it ran,
    ``peak_bytes`` the memory of its worker, where that is a process of its own.
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
    """Runs tasks; see ``tests/contracts/test_executors.py`` for what every implementation must keep."""

    name: str

    @property
    def workers(self) -> int:
        """Tasks that may run at a time."""
        ...

    @property
    def workers_asked(self) -> int:
        """Workers asked for, which one task may share its work out among; 1 if their number is left open."""
        ...

    def run(self, calls: Sequence[TaskCall]) -> Iterator[Outcome]:
        """Run every call once, yielding outcomes as they end, in any order; bounded work in flight."""
        ...

    def close(self) -> None:
        """Give back what the executor holds; safe to call twice."""
        ...


def cluster_address() -> str:
    """Address of the Ray cluster that ``RAY_ADDRESS`` names, as it does in a job; empty where there is none."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def attempt(call: TaskCall, start_companions: StartCompanions = start_here) -> Outcome:
    """Run one task in this process and commit it; errors become part of the outcome."""
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
