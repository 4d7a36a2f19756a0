"""The lease of a run at a URL, which keeps two drivers on any hosts from working on one run.

A lease is a small file that a thread of its holder renews. It lapses when the holder or its host dies. A driver takes
it by a write that fails if the file exists. If the storage has no such write, the later of two writers wins.
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

LEASE_S = 30.0  # after its holder's last renewal a lease lapses
_HELD: set[str] = set()  # tokens of the leases of this process


@dataclass(frozen=True)
class _Holder:
    """The content of the file: the holder of the lease, the number of its renewal, and the identity of its process."""

    token: str
    beats: int
    host: str
    pid: int
    system: str  # the boot and process namespace of the pid; empty if unknown
    started: str  # start of the process, because the system uses a pid again

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Tell whether the process is known to have ended. Only a process of the same system can know."""
        if not (self.system and self.started) or (self.host, self.system) != (socket.gethostname(), _system()):
            return False
        if _started(self.pid) != self.started:
            return True
        return self.pid == os.getpid() and self.token not in _HELD


class Lease:
    """The lease of one run, as one process sees, takes and returns it."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._token = uuid.uuid4().hex
        self._beats = 0
        self.taken_by: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        """Hold the run until ``give_back``; raises ``RunBusy`` if another process renews its lease.

        If a holder is not known to be dead, this waits until a dead holder's lease would lapse.
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
        """Let other processes take the run."""
        self._stop.set()
        _HELD.discard(self._token)
        self._thread.join(1.0)  # it may be waiting for the storage
        with suppress(StorageFailed):  # the lease then lapses
            held = self._holder()
            if held is not None and held.token == self._token:
                self._storage.remove([self._name])

    def is_held(self) -> bool:
        """Tell whether a process holds the lease, that is, whether it changes within three renewals."""
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
        """Wait for a holder to go; return the lease that a dead one left, or ``None``."""
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
        held = None if made else self._holder()  # may be this process's: the write succeeded but its answer was lost
        return made or (held is not None and held.token == self._token)

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_S / 6):
            with suppress(StorageFailed):  # tasks notice a storage that stays away
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
            return _Holder(data[:1000].hex(), 0, "an unknown host", 0, "", "")  # may still be a holder's


def _system() -> str:
    """Return the kernel's boot and this process namespace, because a pid has meaning only within both."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return the start of a process in the kernel's count; empty if there is none or it is a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]
