"""A few seconds of probes that tell how fast this machine is, for ``asterism plan``.

Each probe is the kernel that a kind of work spends its time in, at a size that outgrows the caches. Speeds are
multiples of the reference machine's: two cores of an AVX2 processor at about 3 GHz, with nothing else running.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from engine.graph.cells import load_cells, ungrouped
from engine.graph.codes import encode
from engine.graph.similarity import listed_similarities
from engine.random_streams import SPEED_PROBES, stream
from engine.tiles import map_tiles

# Seconds that the probes take on the reference machine.
REFERENCE = {"codes": 0.204, "floats": 0.538, "memory": 0.022, "disk": 0.246}
ROWS, DIM, CELLS, LISTED = 32_768, 256, 4_096, 40
DISK_BYTES = 256 << 20
REPEATS = 3


def measure_speeds(folder: Path, threads: int) -> dict[str, float]:
    """Speed of each kind of work on ``threads`` threads, and of the disk that holds ``folder``."""
    rng = stream(0, SPEED_PROBES)
    rows_ND = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    codes_NW = encode(rows_ND)
    find = load_cells(ungrouped(codes_NW[:CELLS]), threads)
    halves_ND = rows_ND.astype(np.float16)
    neighbors_NK = rng.integers(0, ROWS, (ROWS // 4, LISTED), dtype=np.int32)
    tiles = [slice(begin, begin + 1024) for begin in range(0, ROWS, 1024)]
    probes: dict[str, Callable[[], object]] = {
        "codes": lambda: find(codes_NW, 4),
        "floats": lambda: map_tiles(lambda tile: rows_ND[tile] @ rows_ND[:CELLS].T, tiles, threads),
        "memory": lambda: listed_similarities(halves_ND, np.arange(ROWS // 4), neighbors_NK, threads=threads),
        "disk": lambda: _write_and_read(folder),
    }
    return {kind: round(REFERENCE[kind] / _best_time(probe), 3) for kind, probe in probes.items()}


def _best_time(probe: Callable[[], object]) -> float:
    probe()  # compiles, and warms the caches
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        probe()
        times.append(time.perf_counter() - started)
    return min(times)


def _write_and_read(folder: Path) -> None:
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    piece = bytes(1 << 22)
    with TemporaryFile(dir=parent) as stream:
        for _ in range(DISK_BYTES // len(piece)):
            stream.write(piece)
        os.fsync(stream.fileno())
        stream.seek(0)
        while stream.read(1 << 22):
            pass
