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
    """Sum the anonymous and shared-memory PSS of a process and its descendants, in bytes.

    File-mapped pages do not count, because they are the system's cache. A system without PSS (not Linux) gives the
    unique set size instead.
    """
    if pid is None and (alone := _bytes_alone()) is not None:
        return alone
    try:
        root = psutil.Process(pid or os.getpid())
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_process_bytes(process) for process in processes)


def _bytes_alone() -> int | None:
    """The same of this process if it shares no memory and has no children: the system counts that without a walk."""
    try:
        children = [path.read_bytes() for path in Path("/proc/self/task").glob("*/children")]
        if not children or any(children):
            return None
        status = Path("/proc/self/status").read_text("ascii", "replace")
        fields = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Rss"))
        anonymous, shared = (int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))
    except (OSError, KeyError):
        return None
    return None if shared else anonymous


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
    """Sample ``tree_bytes`` on a thread; ``peak_bytes`` is the largest sample since ``reset``."""

    def __init__(self, interval_s: float = 0.25) -> None:
        self.peak_bytes = 0
        self._interval_s = interval_s
        self._reading = threading.Lock()  # so that a sample begun before a reset does not count after it
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
        """Start a new peak at the current use."""
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
            # The system walks every mapped page for a sample, so sampling takes at most a twentieth of the time.
            pause = max(self._interval_s, 20 * (time.perf_counter() - started))
