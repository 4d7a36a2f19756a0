"""Mappings of files into a process: how many the system allows, how many are held, and how many a run needs."""

from __future__ import annotations

from pathlib import Path

from engine.errors import MemoryBudgetExceeded
from engine.units import file_rows

DEFAULT_LIMIT = 65_530  # vm.max_map_count of a Linux as it comes
ARRAYS_AT_ONCE = 10  # arrays that one task reads at most
_OTHERS = 4_096  # libraries, threads, and what allocators map

_HELD: dict[int, int] = {}  # files of each mapped array, by its address


def hold_map(address: int, num_files: int) -> None:
    """Take note of an array that was mapped from so many files."""
    _HELD[address] = num_files


def release_map(address: int) -> None:
    """Take note that an array is mapped no more."""
    _HELD.pop(address, None)


def mapped_files() -> int:
    """Count the files of arrays that this process has mapped."""
    return sum(_HELD.values())


def map_limit() -> int:
    """Read how many mappings a process of this machine may have: ``vm.max_map_count``, or Linux's own default."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return DEFAULT_LIMIT


def files_allowed() -> int:
    """Give how many files of arrays a process of this machine may map."""
    return max(1, map_limit() - _OTHERS)


def maps_needed(num_rows: int) -> int:
    """Project the mappings of a process whose task reads arrays of so many rows."""
    return ARRAYS_AT_ONCE * -(-num_rows // file_rows(num_rows)) + _OTHERS


def check_limit(num_rows: int) -> None:
    """Raise ``MemoryBudgetExceeded`` if this machine maps too few files for arrays of so many rows."""
    if (needed := maps_needed(num_rows)) > map_limit():
        raise MemoryBudgetExceeded(
            f"{num_rows:,} rows need up to {needed:,} mapped files in a process, and this machine allows "
            f"{map_limit():,}; {raise_limit(needed)}"
        )


def raise_limit(wanted: int) -> str:
    """Word what the administrator of a machine can do so that a process may have ``wanted`` mappings."""
    return (
        f"vm.max_map_count is {map_limit():,}; on every host, as root: sysctl -w vm.max_map_count="
        f"{max(DEFAULT_LIMIT, wanted)}"
    )
