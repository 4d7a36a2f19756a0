"""Constants and units that the whole engine shares: rows of a chunk, missing neighbours, sizes as people write them."""

from __future__ import annotations

from engine.errors import ConfigError

# Every kernel tile is anchored, and every stored file begins, at a multiple of this many rows.
CHUNK_ROWS = 4096
MOST_FILES = 4096  # of one array, because a process may map 65,530 files on a Linux as it comes

NO_NEIGHBOR = -1  # id of a missing neighbour, in a row of the KNN graph with fewer than K
NO_SIMILARITY = -2.0  # similarity of a missing neighbour, below any cosine


def file_rows(num_rows: int) -> int:
    """Give the rows of each file of an array: one chunk, doubled until ``MOST_FILES`` files hold the array.

    Up to 16.7 million rows a file has one chunk. The blocks of a stage are multiples of it, so a file has one writer.
    """
    rows = CHUNK_ROWS
    while rows * MOST_FILES < num_rows:
        rows *= 2
    return rows


def human_bytes(count: float) -> str:
    """Write a number of bytes for people: ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


_BYTE_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def parse_bytes(text: str, option: str = "--memory") -> int:
    """Read ``8GB``, ``500 MiB`` or a plain number of bytes."""
    cleaned = text.strip().upper().removesuffix("B")
    number = cleaned.rstrip("KMGTI ")
    try:
        count = int(float(number) * _BYTE_UNITS[cleaned[len(number) :].strip()])
    except (KeyError, ValueError, OverflowError):
        count = 0
    if count <= 0:
        raise ConfigError(f"{option} {text or repr(text)}: expected a size such as 8GB or 500MiB")
    return count
