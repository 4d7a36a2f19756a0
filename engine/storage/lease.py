"""The lease of a run at a URL: what keeps two drivers, on whatever hosts, from working on one run.

A lease is a small file that its holder's thread renews. It lapses when the holder, or its host, dies. It is taken by a
write that fails where the file exists, if the storage has such a write; else the later of two writers wins.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import RunBusy, StorageFailed
from engine.storage.remote import Storage

LEASE_S = 30.0  # that a run stays taken after its holder's last sign of life
_HELD: set[str] = set()  # tokens of the leases of this process


@dataclass(frozen=True)
class _Holder:
    """What the file says: who holds the lease, which beat of its renewal this is, and what tells its process apart."""

    token: str
    beats: int
    host: str
    pid: int
    system: str  # the boot and the process namespace in which the pid means something; empty if unknown
    started: str  # when the process began; a pid is used again, the two together are not

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Tell whether the process is known to have ended, which only another of its own system can know."""
        if not (self.system and self.started) or (self.host, self.system) != (socket.gethostname(), _system()):
            return False
        if _started(self.pid) != self.started:
            return True
        return self.pid == os.getpid() and self.token not in _HELD


class Lease:
    """One process's hold, or wish to hold, on a run."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._token = uuid.uuid4().hex
        self._beats = 0
        self.taken_by: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        """Hold the run until it is given back; raises ``RunBusy`` where another process shows signs of life.

        A holder that is not known to be dead is waited for, for as long as a dead one's lease takes to lapse.
        """
        lapsed = self._wait_for_holder()
        _HELD.add(self._token)
        try:
            if not self._create(lapsed):
                raise self._busy(self._holder())
        except BaseException:
            _HELD.discard(self._token)
            raise
        self._thread.start()

    def give_back(self) -> None:
        """Let others have the run."""
        self._stop.set()
        _HELD.discard(self._token)
        self._thread.join(1.0)  # it may be waiting for the storage
        with suppress(StorageFailed):  # then it lapses
            held = self._holder()
            if held is not None and held.token == self._token:
                self._storage.remove([self._name])

    def is_held(self) -> bool:
        """Tell whether someone holds it: whether it changes within the time of two beats."""
        held = self._holder()
        if held is None or held.is_dead():
            return False
        until = time.monotonic() + LEASE_S / 2
        while time.monotonic() < until:
            time.sleep(min(1.0, LEASE_S / 10))
            if self._holder() != held:
                return True
        return False

    def _wait_for_holder(self) -> _Holder | None:
        """What is left of a holder that has died, or ``None`` if there is nothing."""
        held = self._holder()
        until = time.monotonic() + LEASE_S
        while held is not None and not held.is_dead() and time.monotonic() < until:
            time.sleep(min(1.0, LEASE_S / 10))
            now = self._holder()
            if now is not None and now != held:
                raise self._busy(now)
            held = now
        return held

    def _busy(self, holder: _Holder | None) -> RunBusy:
        who = "it has just ended" if holder is None else str(holder)
        return RunBusy(
            f"another process is working on {self._storage.url} ({who}): wait for it, or choose another --out"
        )

    def _create(self, lapsed: _Holder | None) -> bool:
        """Take the lease if nobody has it; tell whether this process has it now."""
        made = self._storage.create(self._name, self._content())
        if made is False and lapsed is not None and self._holder() == lapsed:
            self._storage.remove([self._name])
            made = self._storage.create(self._name, self._content())
        if made is None:
            self._storage.write(self._name, self._content())
            return True
        held = None if made else self._holder()  # it may be ours: written, while the answer was lost
        return made or (held is not None and held.token == self._token)

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_S / 6):
            with suppress(StorageFailed):  # tasks notice if it fails for good
                held = self._holder()
                if held is not None and held.token != self._token:
                    self.taken_by = str(held)
                    return
                self._storage.write(self._name, self._content())

    def _content(self) -> bytes:
        self._beats += 1
        pid = os.getpid()
        return json.dumps(
            asdict(_Holder(self._token, self._beats, socket.gethostname(), pid, _system(), _started(pid)))
        ).encode()

    def _holder(self) -> _Holder | None:
        data = self._storage.read(self._name)
        if data is None:
            return None
        try:
            held = json.loads(data)
            texts = [str(held.get(name, "")) for name in ("token", "host", "system", "started")]
            return _Holder(texts[0], int(held["beats"]), texts[1], int(held["pid"]), texts[2], texts[3])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return _Holder(data[:1000].hex(), 0, "an unknown host", 0, "", "")  # it may be a holder's all the same


def _system() -> str:
    """What tells systems apart in which a pid means something: the kernel's start, and its process namespace."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, in the kernel's own count; empty if there is none, or it has ended but for its entry."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]
