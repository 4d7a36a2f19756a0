"""The Ray executor: each actor runs one task at a time, and a dead actor is replaced."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from engine.errors import ConfigError, TaskFailed
from engine.executors.protocol import Outcome, ray_address
from engine.executors.ray.counters import TaskCounters
from engine.executors.ray.session import START_TIMEOUT_S, connect
from engine.executors.ray.worker import Reply, WorkerSize, make_actor
from engine.process.logs import LOG
from engine.storage.context import TaskCall
from engine.units import human_bytes

START_ATTEMPTS = 6
POLL_S = 5.0
NO_ROOM_S = 20.0  # after this wait an actor counts as having no host
STARTS = 4  # actors that may wait for a host at a time, if their number is left to the compute cluster
MEMORY_STEP = 1 << 30  # memory is rounded up to it, so that stages of similar needs share actors


@dataclass
class _Slot:
    """An actor from the moment it is requested. ``starting``: a reference until it has started. ``call``: its task."""

    actor: Any
    size: WorkerSize
    since: float
    starting: Any = None
    call: TaskCall | None = None
    host: str = ""
    pid: int = 0


class RayExecutor:
    """Runs tasks on ``workers`` actors of ``threads`` cores each; see ``engine.executors.protocol.Executor``.

    With ``workers`` 0 there are as many actors as the compute cluster holds. While there is work, a few more are
    requested than have started, so that a host that joins gets work, and a compute cluster that scales itself adds
    hosts. Nothing starts before the first ``run``. A call holds names of files and small parameters, never arrays. On
    a compute cluster each actor requests the memory that the plan projects for its task. With ``device`` "cuda" each
    actor gets ``gpus`` (0: one GPU, or an equal share if there are fewer GPUs than ``workers``). ``custom`` resources
    are requested unchanged.
    """

    def __init__(
        self,
        workers: int,
        threads: int,
        device: str = "cpu",
        gpus: float = 0.0,
        custom: Mapping[str, float] | None = None,
    ) -> None:
        if ":" in device:
            raise ConfigError(
                f"--device {device} with --executor ray: Ray hands out the GPUs; use --device cuda, and "
                f"CUDA_VISIBLE_DEVICES to choose among them"
            )
        self.name = "ray" if ray_address() or ray.is_initialized() else "ray_alone"  # which this process starts
        self._asked = workers
        self._threads = threads
        self._device = device
        self._gpus = gpus
        self._custom = dict(custom or {})
        self._slots: list[_Slot] = []
        self._pending: dict[Any, _Slot] = {}
        self._counters: TaskCounters | None = None
        self._started_ray = False
        self._runs = 0

    @property
    def workers(self) -> int:
        """Return the number of actors asked for, or, if that is left to the compute cluster, the number that exist."""
        return self._asked or len(self._slots)

    @property
    def workers_asked(self) -> int:
        """Return the number asked for, or 1. A training's weights may depend on it, but not on the hosts that exist."""
        return self._asked or 1

    def run(self, calls: Sequence[TaskCall]) -> Iterator[Outcome]:
        """Run the calls, at most one at a time on each actor; a call whose actor dies comes back with ``retry``."""
        if not calls:
            return
        self._connect()
        assert self._counters is not None
        # An earlier run that its caller left open must not go on beside this one, nor end the actors of this one.
        self._discard_busy()
        self._runs += 1
        this_run = self._runs
        size = self._size(calls)
        if size.gpus and calls[0].workers > 1:  # the companions need the GPUs of the other actors
            for slot in self._slots[1:]:
                self._discard(slot)
        waiting = deque(calls)
        failed_starts, moved, warned = 0, time.monotonic(), False
        try:
            while waiting or any(slot.call for slot in self._slots):
                self._assign(waiting)
                self._grow(len(waiting), size)
                done = self._wait()
                if done or any(slot.call for slot in self._slots):
                    moved = time.monotonic()
                elif time.monotonic() - moved > START_TIMEOUT_S:
                    raise self._no_room(size)
                elif time.monotonic() - moved > NO_ROOM_S and not warned:
                    warned = True
                    LOG.warning("waiting for a host with room for a worker of %s; %s", size, _offered())
                outcomes, lost_starts, started = self._collect(done)
                failed_starts = 0 if started or outcomes else failed_starts + bool(lost_starts)
                if lost_starts and failed_starts >= START_ATTEMPTS and not any(slot.call for slot in self._slots):
                    raise TaskFailed(
                        f"Ray could not start a worker, tried {START_ATTEMPTS} times: {lost_starts[0]}; is every host "
                        f"of the cluster started with RAY_AUTH_MODE=token and the token given here?"
                    )
                if lost_starts:
                    time.sleep(1)
                for outcome in outcomes:
                    self._counters.count(outcome)
                    yield outcome
                    if this_run != self._runs:
                        return
        finally:
            if this_run == self._runs:
                self._discard_busy()
                self._discard_waiting()

    def close(self) -> None:
        """End the actors, and Ray if this executor started it."""
        for slot in list(self._slots):
            self._discard(slot)
        if self._started_ray:
            self._started_ray = False
            ray.shutdown()

    def _assign(self, waiting: deque[TaskCall]) -> None:
        for slot in self._slots:
            if not waiting:
                return
            if slot.call is None and slot.starting is None:
                slot.call, slot.since = waiting.popleft(), time.monotonic()
                self._pending[slot.actor.run.remote(slot.call)] = slot

    def _grow(self, num_waiting: int, size: WorkerSize) -> None:
        """Request an actor for each call that has none, within the limit on actors."""
        starting = sum(slot.starting is not None for slot in self._slots)
        room = self._asked - len(self._slots) if self._asked else max(STARTS, len(self._slots) - starting) - starting
        for _ in range(min(num_waiting - starting, room)):
            slot = _Slot(make_actor(size), size, time.monotonic())
            slot.starting = slot.actor.ready.remote()
            self._pending[slot.starting] = slot
            self._slots.append(slot)

    def _wait(self) -> list[Any]:
        """Return the references that are ready, or none after ``POLL_S``."""
        done, _ = ray.wait(list(self._pending), num_returns=1, timeout=POLL_S)
        if done:
            done, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        return list(done)

    def _collect(self, done: Sequence[Any]) -> tuple[list[Outcome], list[RayError], bool]:
        """Return outcomes of ended calls, errors of actors that died before they started, and whether any started."""
        outcomes: list[Outcome] = []
        lost_starts: list[RayError] = []
        started = False
        for reference in done:
            slot = self._pending.pop(reference)
            call, was_starting, began = slot.call, slot.starting is not None, slot.since
            slot.call = slot.starting = None
            try:
                reply = ray.get(reference)
            except RayTaskError as error:
                reply = Reply(None, (error,), str(error), False, slot.host, slot.pid)
            except RayError as error:
                self._discard(slot)
                if call is None:
                    lost_starts.append(error)
                else:
                    lost_s = time.monotonic() - began
                    outcomes.append(Outcome(call, None, error, str(error), True, True, lost_s, slot.host, slot.pid))
                continue
            if was_starting:
                started = True
                slot.host, slot.pid = reply
            elif call is not None:
                outcomes.append(reply.outcome(call))
        return outcomes, lost_starts, started

    def _connect(self) -> None:
        if not ray.is_initialized():
            gpus = 0
            if self._device == "cuda":
                import torch

                gpus = torch.cuda.device_count()
            self._started_ray = connect(self._asked * self._threads, gpus)
        self._counters = self._counters or TaskCounters()

    def _size(self, calls: Sequence[TaskCall]) -> WorkerSize:
        """Return the size of a worker for these calls; end actors that are too small or far too large for them."""
        # An embedded Ray has this machine's memory, which the plan has already divided among the workers.
        asked = 0 if self._started_ray else max(call.memory_bytes for call in calls)
        size = WorkerSize(self._threads, self._gpus_each(), -(-asked // MEMORY_STEP) * MEMORY_STEP, self._custom)
        for slot in list(self._slots):
            if not size.memory_bytes <= slot.size.memory_bytes <= 4 * size.memory_bytes:
                self._discard(slot)
        return size

    def _gpus_each(self) -> float:
        if self._device != "cuda":
            return 0.0
        if self._gpus or not self._asked:
            return self._gpus or 1.0
        offered = int(ray.cluster_resources().get("GPU", 0))
        if not offered:
            raise ConfigError("--device cuda: this Ray cluster offers no GPU; use --device cpu")
        return 1.0 if offered >= self._asked else int(10_000 * offered / self._asked) / 10_000

    def _no_room(self, size: WorkerSize) -> TaskFailed:
        return TaskFailed(
            f"no Ray worker of {size} could start in {START_TIMEOUT_S:.0f} s; {_offered()}: ask for less "
            f"(threads, gpus, memory_bytes, custom_resources), or add hosts that hold it"
        )

    def _discard_busy(self) -> None:
        for slot in list(self._slots):
            if slot.call is not None:
                self._discard(slot)

    def _discard_waiting(self) -> None:
        """End actors that no host has room for, because they would make the compute cluster add idle hosts."""
        for slot in list(self._slots):
            if slot.starting is not None and time.monotonic() - slot.since > NO_ROOM_S:
                self._discard(slot)

    def _discard(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        self._pending = {reference: held for reference, held in self._pending.items() if held is not slot}
        if ray.is_initialized():
            ray.kill(slot.actor)


def _offered() -> str:
    """Describe the resources of the compute cluster's hosts, with equal hosts together."""
    hosts: dict[str, int] = {}
    for node in ray.nodes():
        if node["Alive"]:
            held = {name: count for name, count in node["Resources"].items() if ":" not in name}
            words = [f"{held.pop('CPU', 0):g} CPUs", f"{held.pop('GPU', 0):g} GPUs"]
            words.append(human_bytes(held.pop("memory", 0)))
            held.pop("object_store_memory", None)
            text = ", ".join([*words, *(f"{count:g} {name}" for name, count in sorted(held.items()))])
            hosts[text] = hosts.get(text, 0) + 1
    return "the cluster has " + "; ".join(f"{count} host(s) of {text}" for text, count in hosts.items())
