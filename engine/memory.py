"""Memory of the process tree, in the one sense used everywhere: summed PSS, file-mapped pages apart."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from types import TracebackType

import psutil


def tree_bytes(pid: int | None = None) -> int:
    """Sum the anonymous and shared-memory PSS of a process and its descendants, in bytes.

    File-mapped pages are the system's cache and do not count. Where the system has no PSS (outside Linux), unique set
    size stands in.
    """
    try:
        root = psutil.Process(pid or os.getpid())
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_process_bytes(process) for process in processes)


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
    """Give memory that was freed back to the system, where its allocator (glibc) would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def free_bytes() -> int:
    """Memory that new work may take: what the system calls available, within this process's control group."""
    available = int(psutil.virtual_memory().available)
    try:
        with (
            open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit,
            open("/sys/fs/cgroup/memory.current", encoding="ascii") as current,
        ):
            text = limit.read().strip()
            if text != "max":
                available = min(available, int(text) - int(current.read()))
    except (OSError, ValueError):
        pass
    return max(available, 0)


class PeakMemory:
    """Samples ``tree_bytes`` on a thread; ``peak_bytes`` is the largest seen since ``reset``."""

    def __init__(self, interval_s: float = 0.25) -> None:
        self.peak_bytes = 0
        self._interval_s = interval_s
        self._reading = threading.Lock()  # so that no sample begun before a reset counts after it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def reset(self) -> None:
        """Start a new peak from the present use."""
        with self._reading:
            self.peak_bytes = tree_bytes()

    def take(self) -> int:
        """Return the peak since the last reset and start a new one."""
        with self._reading:
            present = tree_bytes()
            peak, self.peak_bytes = max(self.peak_bytes, present), present
        return peak

    def _sample(self) -> None:
        pause = self._interval_s
        while not self._stop.wait(pause):
            started = time.perf_counter()
            with self._reading:
                self.peak_bytes = max(self.peak_bytes, tree_bytes())
            # The system walks every mapped page to answer: never spend more than a twentieth of the time on it.
            pause = max(self._interval_s, 20 * (time.perf_counter() - started))
