"""The actor that runs tasks, and how an attempt travels back from it.

An actor keeps mapped arrays, indexes and models between tasks (``engine.storage.context.hold``). It owns nothing that
storage does not have, so one that died is replaced by a fresh one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import ray
from ray import cloudpickle

from engine.executors.base import Outcome, attempt
from engine.executors.ray.companions import RayCompanions
from engine.executors.ray.threads import limit_threads
from engine.storage.context import TaskCall
from engine.storage.manifest import Record


@dataclass(frozen=True)
class Reply:
    """An ``Outcome`` without its call, its error as the chain of causes (pickling an exception drops them)."""

    record: Record | None
    errors: tuple[BaseException, ...]
    details: str
    retry: bool

    @classmethod
    def of(cls, outcome: Outcome) -> Reply:
        chain: list[BaseException] = []
        error = outcome.error
        while error is not None and error not in chain:
            chain.append(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return cls(outcome.record, tuple(map(portable, chain)), outcome.details, outcome.retry)

    def outcome(self, call: TaskCall) -> Outcome:
        for error, cause in zip(self.errors, self.errors[1:], strict=False):
            error.__cause__ = cause
        return Outcome(call, self.record, self.errors[0] if self.errors else None, self.details, self.retry)


class TaskRunner:
    """Runs one task at a time on ``threads`` threads; made a Ray actor by ``RayExecutor``."""

    def __init__(self, threads: int, num_gpus: float) -> None:
        limit_threads(threads)
        self._start_companions = partial(RayCompanions, threads=threads, num_gpus=num_gpus)

    def ready(self) -> None:
        """Return once the actor has started."""

    def run(self, call: TaskCall) -> Reply:
        """Run and commit one task."""
        return Reply.of(attempt(call, self._start_companions))


def make_actor(threads: int, num_gpus: float) -> ray.actor.ActorHandle:
    """Start an actor. It is not restarted by Ray: the executor replaces it and runs its task again."""
    actor_class = ray.remote(num_cpus=threads, num_gpus=num_gpus, max_restarts=0, max_task_retries=0)(TaskRunner)
    return actor_class.remote(threads, num_gpus)


def portable(error: BaseException) -> BaseException:
    """The error itself if it survives the way between processes, else a ``RuntimeError`` that says the same."""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
