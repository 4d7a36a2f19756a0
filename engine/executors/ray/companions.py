"""Companions of a task as Ray actors, spread over the hosts.

The worker that runs the task owns them, so they end with the task, or with the worker if it dies. They reserve no core,
because they use the cores that a stage of one task leaves idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from engine.errors import TaskFailed
from engine.executors.ray.session import START_TIMEOUT_S
from engine.executors.ray.threads import limit_threads
from engine.storage.companions import resolve


class Companion:
    """One object in an actor's process."""

    def __init__(self, threads: int) -> None:
        limit_threads(threads)
        self._made: Any = None

    def make(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Make the object. This is not the actor's ``__init__``, so that its errors differ from the actor's death."""
        self._made = resolve(name)(*arguments)

    def call(self, method: str, parts: int, *arguments: Any) -> Any:
        """Call a method. A single part is returned without its list, as Ray expects."""
        result = getattr(self._made, method)(*arguments)
        return result[0] if parts == 1 else result


class RayCompanions:
    """``Companions`` whose promises are Ray's references, which pass between actors."""

    def __init__(
        self, name: str, arguments: Sequence[tuple[Any, ...]], on_device: bool, *, threads: int, num_gpus: float
    ) -> None:
        """Start an actor for each tuple of arguments and wait until all have made their objects."""
        self._name = name
        resources = {"num_cpus": 0, "num_gpus": num_gpus if on_device else 0}
        lifetime = {"max_restarts": 0, "max_task_retries": 0}
        actor_class = ray.remote(**resources, **lifetime, scheduling_strategy="SPREAD")(Companion)
        self._actors = [actor_class.remote(threads) for _ in arguments]
        made = [actor.make.remote(name, given) for actor, given in zip(self._actors, arguments, strict=True)]
        try:
            if ray.wait(made, num_returns=len(made), timeout=START_TIMEOUT_S)[1]:
                raise TaskFailed(
                    f"{len(made)} companions ({name}) did not start in {START_TIMEOUT_S:.0f} s; the cluster offers "
                    f"{ray.cluster_resources().get('GPU', 0):.0f} GPUs, each takes {resources['num_gpus']}: use fewer "
                    f"--workers, or a larger cluster"
                )
            self.wait(made)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._actors)

    def begin(self, number: int, method: str, *arguments: Any, parts: int = 0) -> Any:
        """Send the call; see ``Companions``."""
        promise = self._actors[number].call.options(num_returns=max(1, parts)).remote(method, parts, *arguments)
        return [promise] if parts == 1 else promise

    def wait(self, promises: Sequence[Any]) -> list[Any]:
        """Wait for the promises; see ``Companions``."""
        try:
            return [ray.get(promise) for promise in promises]  # of several errors always the first
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if not isinstance(cause, RayError):
                raise cause from error
            raise ConnectionError(f"one of {len(self._actors)} companions ({self._name}) died: {cause}") from error

    def close(self) -> None:
        """Kill the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
