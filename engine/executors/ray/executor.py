"""The Ray executor: one task at a time on each of a few actors, dead actors replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from engine.errors import ConfigError, TaskFailed
from engine.executors.base import Outcome
from engine.executors.ray.session import START_TIMEOUT_S, connect
from engine.executors.ray.worker import Reply, make_actor
from engine.storage.context import TaskCall

START_ATTEMPTS = 4


@dataclass
class _Slot:
    """One place for an actor: what tells that it has started, until it has, and the call under way on it."""

    actor: Any = None
    starting: Any = None
    call: TaskCall | None = None


class RayExecutor:
    """Runs tasks on ``workers`` actors of ``threads`` cores each; see ``engine.executors.base.Executor``.

    Nothing starts before the first ``run``. Calls travel as names of files and small parameters, never as arrays.
    With ``device`` "cuda" each actor gets a GPU, or an equal share of one where there are fewer GPUs than workers.
    """

    name = "ray"

    def __init__(self, workers: int, threads: int, device: str = "cpu") -> None:
        if ":" in device:
            raise ConfigError(
                f"--device {device} with --executor ray: Ray hands out the GPUs; use --device cuda, and "
                f"CUDA_VISIBLE_DEVICES to choose among them"
            )
        self.workers = workers
        self._threads = threads
        self._device = device
        self._slots = [_Slot() for _ in range(workers)]
        self._started_ray = False
        self._runs = 0

    def run(self, calls: Sequence[TaskCall]) -> Iterator[Outcome]:
        """Run the calls, at most one at a time on each actor; a call whose actor dies comes back with ``retry``."""
        if not calls:
            return
        self._connect()
        gpus = self._gpus_each()
        # A run that a caller left without closing it must neither go on beside this one nor end this one's actors.
        self._discard_busy()
        if gpus and calls[0].workers > 1:  # its companions need the GPUs of the others
            for slot in self._slots[1:]:
                self._discard(slot)
        self._runs += 1
        this_run = self._runs
        waiting = deque(calls)
        unused = [slot for slot in self._slots if slot.actor is None]
        idle = [slot for slot in self._slots if slot.actor is not None and slot.starting is None]
        busy = {slot.starting: slot for slot in self._slots if slot.starting is not None}
        failed_starts = 0
        try:
            while waiting or any(slot.call for slot in busy.values()):
                while waiting and idle:
                    slot = idle.pop(0)
                    slot.call = waiting.popleft()
                    busy[slot.actor.run.remote(slot.call)] = slot
                starting = sum(slot.starting is not None for slot in busy.values())
                for _ in range(min(len(waiting) - starting, len(unused))):
                    slot = unused.pop(0)
                    slot.actor = make_actor(self._threads, gpus)
                    slot.starting = slot.actor.ready.remote()
                    busy[slot.starting] = slot
                done, _ = ray.wait(list(busy), num_returns=1, timeout=START_TIMEOUT_S)
                if not done and not any(slot.call for slot in busy.values()):
                    raise self._no_room(gpus)
                for reference in done:
                    slot = busy.pop(reference)
                    call, slot.call, slot.starting = slot.call, None, None
                    try:
                        reply = ray.get(reference)
                    except RayTaskError as error:
                        reply = Reply(None, (error,), str(error), retry=False)
                    except RayError as error:
                        reply = Reply(None, (error,), str(error), retry=True)
                        self._discard(slot)
                        failed_starts += call is None
                        if failed_starts == START_ATTEMPTS:
                            raise TaskFailed(f"Ray could not start a worker, tried {START_ATTEMPTS} times") from error
                    (unused if slot.actor is None else idle).append(slot)
                    if call is not None:
                        yield reply.outcome(call)
        finally:
            if this_run == self._runs:
                self._discard_busy()

    def close(self) -> None:
        """End the actors, and Ray if this executor started it."""
        for slot in self._slots:
            self._discard(slot)
        if self._started_ray:
            self._started_ray = False
            ray.shutdown()

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        gpus = 0
        if self._device == "cuda":
            import torch

            gpus = torch.cuda.device_count()
        self._started_ray = connect(self.workers * self._threads, gpus)

    def _gpus_each(self) -> float:
        if self._device != "cuda":
            return 0.0
        offered = int(ray.cluster_resources().get("GPU", 0))
        if not offered:
            raise ConfigError("--device cuda: this Ray cluster offers no GPU; use --device cpu")
        return 1.0 if offered >= self.workers else int(10_000 * offered / self.workers) / 10_000

    def _no_room(self, gpus: float) -> ConfigError:
        offered = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
        return ConfigError(
            f"no Ray worker with {self._threads} CPU(s) and {gpus} GPU(s) could start in {START_TIMEOUT_S:.0f} s; the "
            f"cluster offers {offered['CPU']:.0f} CPUs and {offered['GPU']:.0f} GPUs: lower the threads of each worker"
        )

    def _discard_busy(self) -> None:
        for slot in self._slots:
            if slot.call is not None:
                self._discard(slot)

    def _discard(self, slot: _Slot) -> None:
        if slot.actor is not None and ray.is_initialized():
            ray.kill(slot.actor)
        slot.actor = slot.starting = slot.call = None
