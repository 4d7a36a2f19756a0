"""Parallelism over fixed tiles: the one way kernels use several cores.

Work is cut into tiles whose bounds depend on global row numbers alone. Single-threaded code computes each tile (numba
without ``parallel``, BLAS and torch pinned to one thread), and tiles run on a thread pool. Results are therefore the
same bits for any number of threads, workers or rows per block.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import pairwise
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

from engine.control_groups import core_quota

T = TypeVar("T")
R = TypeVar("R")

_THIS_THREAD = threading.local()


@contextmanager
def single_threaded_kernels() -> Iterator[None]:
    """Pin BLAS, OpenMP and torch to one thread inside the block, because tiles already run in parallel."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _thread_pools(len(sys.modules)).limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _thread_pools(num_modules: int) -> ThreadpoolController:
    """Find the libraries loaded so far, again only after new imports: a search takes 200 times as long as pinning."""
    return ThreadpoolController()


def usable_cores() -> int:
    """Count the cores that this process may run on, within a container's quota of processor time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, core_quota() or cores)


def map_tiles(function: Callable[[T], R], tiles: Iterable[T], threads: int) -> list[R]:
    """Apply ``function`` to each tile on ``threads`` threads; results in the order of ``tiles``.

    ``function`` should spend its time in code that releases the GIL. The first exception is raised after the running
    tiles finish. The threads are kept for later calls; a call from one of them works through its tiles itself.
    """
    items = list(tiles)
    with single_threaded_kernels():
        if threads <= 1 or len(items) <= 1 or getattr(_THIS_THREAD, "in_pool", False):
            return [function(item) for item in items]
        futures = [_pool(threads).submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


def stream_tiles(function: Callable[[T], R], tiles: Iterable[T], threads: int) -> Iterator[R]:
    """Apply ``function`` on ``threads`` threads to tiles as they come; yield the results in the order of ``tiles``.

    The caller's thread draws the tiles, so that reading overlaps with work. At most twice ``threads`` tiles are held.
    ``function`` and exceptions are treated as in ``map_tiles``.
    """
    with single_threaded_kernels(), ThreadPoolExecutor(threads, initializer=_pin_thread) as pool:
        running: deque[Future[R]] = deque()
        try:
            for tile in tiles:
                running.append(pool.submit(function, tile))
                if len(running) >= 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def tile_bounds(start: int, stop: int, tile_rows: int) -> list[tuple[int, int]]:
    """Cut rows ``start..stop`` at the multiples of ``tile_rows`` counted from global row 0."""
    edges = [start, *range((start // tile_rows + 1) * tile_rows, stop, tile_rows), stop]
    return [(a, b) for a, b in pairwise(edges) if a < b]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """The threads of ``map_tiles``, kept because to start them takes longer than many a tile."""
    return ThreadPoolExecutor(threads, "tiles", initializer=_pin_thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # because threads do not outlive a fork


def _pin_thread() -> None:
    torch.set_num_threads(1)
    _THIS_THREAD.in_pool = True
