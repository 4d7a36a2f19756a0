"""Measure a piece of work in a process of its own: seconds, and memory sampled from outside."""

from __future__ import annotations

import json
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import psutil

from engine.process.memory import free_bytes, tree_bytes

SAMPLE_S = 0.02
T = TypeVar("T")


class Clock:
    """Seconds since the lap before, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._started = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._started, 2)
        self._started = now


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """In the child: do the work to be measured; only memory taken meanwhile counts."""
    print("started", flush=True)
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    print("ended", flush=True)
    return result, round(seconds, 2)


def measure_apart(script: str, arguments: Sequence[str], limit_s: float = 600) -> dict[str, Any]:
    """Run ``python script arguments``, which calls ``timed`` and then prints a JSON object; return it with its memory.

    ``peak_bytes`` is anonymous memory, ``peak_resident_bytes`` counts mapped files too, ``before_bytes`` is what was
    held when the work began. The process may take the memory that is free, and ``limit_s``, and no more; if it fails,
    ``failed`` says why. Memory is sampled from here: code that holds the interpreter's lock would keep a thread of its
    own from it.
    """
    limit = free_bytes()
    process = subprocess.Popen(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )  # fmt: skip
    assert process.stdout is not None
    before = peak = resident = 0
    failed = ""
    if process.stdout.readline():
        before = tree_bytes(process.pid)
        started = time.perf_counter()
        while not select.select([process.stdout], [], [], SAMPLE_S)[0]:
            peak = max(peak, tree_bytes(process.pid))
            resident = max(resident, _resident_bytes(process.pid))
            if time.perf_counter() - started > limit_s:
                failed = f"no result within {limit_s:.0f} s"
                process.kill()
                break
    output, errors = process.communicate()
    memory = {"before_bytes": before, "peak_bytes": max(peak, before), "peak_resident_bytes": resident}
    if process.returncode == 0:
        return {**json.loads(output.splitlines()[-1]), **memory}
    failed = failed or (errors.strip().splitlines() or [f"signal {-process.returncode}"])[-1]
    return {"failed": failed, "memory_allowed_bytes": limit, **memory}


def found_version(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
