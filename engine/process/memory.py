"""Memory of the process tree, measured everywhere as summed PSS without file-mapped pages."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psutil

from engine.control_groups import groups, read_number


def tree_bytes(pid: int | None = None) -> int:
    """Sum the anonymous and shared memory of a process and its descendants, in bytes.

    File-mapped pages do not count, because they are the system's cache. Descendants count with their PSS, because
    those of a fork server share pages; for it the system walks all their pages. This process (``pid`` None) counts as
    the system has it at hand. A system without PSS (not Linux) gives the unique set size instead.
    """
    if pid is None:
        return _own_bytes() + _descendants_bytes(os.getpid())
    try:
        own = _process_bytes(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return 0
    return own + _descendants_bytes(pid)


def _own_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
        fields = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Rss"))
        return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))
    except (OSError, KeyError):
        return _process_bytes(psutil.Process())


def _descendants_bytes(pid: int) -> int:
    try:
        children = [path.read_bytes() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        if children and not any(children):  # which spares a look at all processes of the system
            return 0
        return sum(_process_bytes(process) for process in psutil.Process(pid).children(recursive=True))
    except (psutil.NoSuchProcess, OSError):
        return 0


def _process_bytes(process: psutil.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as stream:
            fields = dict(line.split(":", 1) for line in stream if line.startswith("Pss_"))
        return sum(int(fields[name].split()[0]) << 10 for name in ("Pss_Anon", "Pss_Shmem"))
    except (FileNotFoundError, KeyError):
        try:
            return int(process.memory_full_info().uss)
        except psutil.Error:
            return 0
    except (ProcessLookupError, PermissionError):
        return 0


def return_unused() -> None:
    """Give freed memory back to the system, because the allocator (glibc) would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def free_bytes(root: Path = Path("/")) -> int:
    """Return the bytes that new work may take: what the system calls available, within this process's control groups.

    ``root``: the folder that holds ``proc`` and ``sys``.
    """
    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield the bytes that each control group (version 1 or 2) around this process leaves of its limit.

    Pages of files count as free, because the kernel takes them back before it refuses memory.
    """
    for group, version in groups("memory", root):
        if version == 2:
            limits, used, prefix = ["memory.max", "memory.high"], "memory.current", ""
        else:
            limits, used, prefix = ["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_"
        limit = min((found for each in limits if (found := read_number(group / each)) is not None), default=None)
        held = read_number(group / used)
        if limit is not None and held is not None:
            yield limit - max(0, held - _reclaimable(group / "memory.stat", prefix))


def _reclaimable(path: Path, prefix: str) -> int:
    wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
    try:
        fields = (line.split() for line in path.read_text().splitlines())
        return sum(int(field[1]) for field in fields if len(field) == 2 and field[0] in wanted)
    except (OSError, ValueError):
        return 0


class PeakMemory:
    """Sample the memory of this process and its descendants on a thread; ``peak_bytes`` is the most since ``reset``.

    Descendants are looked at by the thread alone, so resetting and taking cost next to nothing.
    """

    def __init__(self, interval_s: float = 0.25) -> None:
        self.peak_bytes = 0
        self._descendants_bytes = 0  # as last looked at
        self._interval_s = interval_s
        self._reading = threading.Lock()  # so that a sample begun before a reset does not count after it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._descendants_bytes = _descendants_bytes(os.getpid())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def reset(self) -> None:
        """Start a new peak at the current use."""
        self.take()

    def take(self) -> int:
        """Return the peak since the last reset and start a new one."""
        with self._reading:
            present = _own_bytes() + self._descendants_bytes
            peak, self.peak_bytes = max(self.peak_bytes, present), present
        return peak

    def _sample(self) -> None:
        pause = self._interval_s
        while not self._stop.wait(pause):
            started = time.thread_time()
            with self._reading:
                self._descendants_bytes = _descendants_bytes(os.getpid())
                self.peak_bytes = max(self.peak_bytes, _own_bytes() + self._descendants_bytes)
            # The system walks every mapped page of a descendant, so sampling takes at most a fiftieth of the time.
            pause = max(self._interval_s, 50 * (time.thread_time() - started))
