"""The actor that runs tasks, and the reply that it sends back for each attempt.

An actor keeps mapped arrays, indexes and models between tasks (``engine.storage.context.hold``). Storage has everything
that an actor holds, so a fresh actor can replace a dead one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import ray
from ray import cloudpickle

from engine.executors.protocol import Outcome, attempt
from engine.executors.ray.companions import RayCompanions
from engine.executors.ray.threads import limit_threads
from engine.process.memory import PeakMemory
from engine.storage.context import TaskCall
from engine.storage.manifest import Record
from engine.units import human_bytes


@dataclass(frozen=True)
class WorkerSize:
    """The resources that each worker requests from Ray; ``custom`` are named resources of the hosts."""

    threads: int
    gpus: float = 0.0
    memory_bytes: int = 0
    custom: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.threads} CPU(s)"]
        parts += [f"{self.gpus:g} GPU(s)"] if self.gpus else []
        parts += [human_bytes(self.memory_bytes)] if self.memory_bytes else []
        return ", ".join([*parts, *(f"{count:g} {name}" for name, count in self.custom.items())])


@dataclass(frozen=True)
class Reply:
    """An ``Outcome`` without its call. Its error is the list of causes, because pickling an exception drops them."""

    record: Record | None
    errors: tuple[BaseException, ...]
    details: str
    retry: bool
    host: str = ""
    pid: int = 0
    peak_bytes: int = 0

    @classmethod
    def of(cls, outcome: Outcome) -> Reply:
        chain: list[BaseException] = []
        error = outcome.error
        while error is not None and error not in chain:
            chain.append(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        errors = tuple(map(portable, chain))
        return cls(
            outcome.record, errors, outcome.details, outcome.retry, outcome.host, outcome.pid, outcome.peak_bytes
        )

    def outcome(self, call: TaskCall) -> Outcome:
        for error, cause in zip(self.errors, self.errors[1:], strict=False):
            error.__cause__ = cause
        first = self.errors[0] if self.errors else None
        return Outcome(
            call, self.record, first, self.details, self.retry, host=self.host, pid=self.pid, peak_bytes=self.peak_bytes
        )


class TaskRunner:
    """Runs one task at a time on ``threads`` threads; made a Ray actor by ``RayExecutor``."""

    def __init__(self, threads: int, num_gpus: float) -> None:
        limit_threads(threads)
        self._start_companions = partial(RayCompanions, threads=threads, num_gpus=num_gpus)

    def ready(self) -> tuple[str, int]:
        """Return the host and process of the actor, once it has started."""
        return socket.gethostname(), os.getpid()

    def run(self, call: TaskCall) -> Reply:
        """Run and commit one task."""
        with PeakMemory() as memory:
            outcome = attempt(call, self._start_companions)
            return Reply.of(replace(outcome, peak_bytes=memory.take()))


def make_actor(size: WorkerSize) -> ray.actor.ActorHandle:
    """Start an actor, spread over the hosts with room; it waits in Ray until a host has room.

    Ray does not restart a dead actor, because the executor replaces it and runs its task again.
    """
    actor_class = ray.remote(
        num_cpus=size.threads,
        num_gpus=size.gpus,
        memory=size.memory_bytes or None,
        resources=dict(size.custom) or None,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy="SPREAD",
    )(TaskRunner)
    return actor_class.remote(size.threads, size.gpus)


def portable(error: BaseException) -> BaseException:
    """Return the error if it can be pickled and unpickled, else a ``RuntimeError`` with the same text."""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
