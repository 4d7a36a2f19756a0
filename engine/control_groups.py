"""The control groups around this process: where a container's limits of memory and cores are written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from pathlib import Path, PurePosixPath


def groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """Yield the folder and version (1 or 2) of each control group around this process that may limit ``controller``.

    ``root``: the folder that holds ``proc`` and ``sys``. A group of the container's host may not exist here.
    """
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        lines = ["0::/"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controller not in controllers.split(","):
            continue
        version = 2 if number == "0" else 1
        mount = mounts if version == 2 else _mount(mounts, controller, controllers)
        # A container sees its own group as the mount, but may be given a path that exists on its host only.
        for name in {"", *(str(parent) for parent in (PurePosixPath(path), *PurePosixPath(path).parents))}:
            yield mount / name.strip("/"), version


def read_number(path: Path) -> int | None:
    """Return the number in a file; ``None`` for ``max``, a missing file, or other content."""
    try:
        text = path.read_text().strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 30 else None


@lru_cache(maxsize=4)
def core_quota(root: Path = Path("/")) -> int | None:
    """Return how many cores the groups' quotas of processor time amount to, rounded up; ``None`` without a quota."""
    found = []
    for group, version in groups("cpu", root):
        if version == 1:
            quota, period = read_number(group / "cpu.cfs_quota_us"), read_number(group / "cpu.cfs_period_us")
        else:
            quota, period = _quota(group / "cpu.max")
        if quota and period:
            found.append(max(1, ceil(quota / period)))
    return min(found, default=None)


def _quota(path: Path) -> tuple[int | None, int | None]:
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None, None
    return (int(quota), int(period)) if quota.isdigit() and period.isdigit() else (None, None)


def _mount(mounts: Path, controller: str, controllers: str) -> Path:
    """Return where a controller of version 1 is mounted: by its name, or by those of all that it is mounted with."""
    together = mounts / controllers
    return together if not (mounts / controller).exists() and together.exists() else mounts / controller
