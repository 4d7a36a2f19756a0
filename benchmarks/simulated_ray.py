"""A Ray of no processes: actors that commit at once, some of whose hosts go; stands for ``ray`` in the executor."""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from engine.executors.ray.worker import Reply
from engine.storage.context import TaskCall
from engine.storage.manifest import Record, bytes_checksum


class SimulatedRay:
    """What ``engine.executors.ray.executor`` calls of ``ray``; ``room`` actors have a host at a time.

    Of ``losses`` tasks the worker is lost. ``seconds`` is the time spent in here, which is none of the driver's.
    """

    def __init__(self, room: int, losses: float, seed: int = 0) -> None:
        self.seconds = 0.0
        self._room, self._losses, self._rng = room, losses, random.Random(seed)
        self._held: set[SimulatedActor] = set()
        self._answers: dict[int, Any] = {}
        self._count = 0

    def make_actor(self, size: Any) -> SimulatedActor:
        actor = SimulatedActor(self)
        if len(self._held) < self._room:
            self._held.add(actor)
        return actor

    def is_initialized(self) -> bool:
        return True

    def wait(self, references: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        """A few of what is under way are done: as many as a driver finds that looks while it handles others."""
        started = time.perf_counter()
        ready = [reference for reference in references if self._answers[reference] is not None]
        ready = ready[:1] if num_returns == 1 else ready[: self._rng.randint(1, 40)]
        self.seconds += time.perf_counter() - started
        return ready, []

    def get(self, reference: int) -> Any:
        answer = self._answers.pop(reference)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: SimulatedActor) -> None:
        self._held.discard(actor)

    def submit(self, actor: SimulatedActor, call: TaskCall | None) -> int:
        started = time.perf_counter()
        self._count += 1
        if call is None:
            self._answers[self._count] = (f"host{self._count % 64}", self._count) if actor in self._held else None
        elif self._rng.random() < self._losses:
            self._answers[self._count] = RayError("its host is gone")
        else:
            self._answers[self._count] = Reply(commit(call), (), "", False, f"host{self._count % 64}", self._count)
        self.seconds += time.perf_counter() - started
        return self._count


class SimulatedActor:
    def __init__(self, ray: SimulatedRay) -> None:
        self.ready, self.run = SimulatedMethod(ray, self), SimulatedMethod(ray, self)


class SimulatedMethod:
    def __init__(self, ray: SimulatedRay, actor: SimulatedActor) -> None:
        self._ray, self._actor = ray, actor

    def remote(self, call: TaskCall | None = None) -> int:
        return self._ray.submit(self._actor, call)


def commit(call: TaskCall) -> Record:
    """A record of a task without outputs, as a worker would write it, but not flushed to the disk."""
    record = Record(call.digest, call.start, call.stop, (), {}, 1.0)
    tree = asdict(record)
    checksum = bytes_checksum(json.dumps(tree, sort_keys=True).encode())
    path = Path(call.folder) / "records" / f"{call.start:012d}-{call.stop:012d}.json"
    path.write_text(json.dumps({"record": tree, "checksum": checksum}))
    return record
