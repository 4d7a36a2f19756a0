"""What this machine and its software are."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import psutil

from engine.version import __version__

PACKAGES = ("torch", "faiss-cpu", "faiss-gpu", "numpy", "numba", "pyarrow", "zarr", "ray")


def versions() -> dict[str, str]:
    """Read the versions of the engine, Python and the packages that results depend on."""
    found = {"asterism": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """Word the cores, memory and processor of this machine."""
    memory = psutil.virtual_memory().total / 1e9
    return {"processor": _processor(), "cores": str(os.cpu_count()), "memory": f"{memory:.0f} GB"}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
