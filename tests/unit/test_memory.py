from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import pytest

from engine.memory import PeakMemory, free_bytes, return_unused, tree_bytes

SIZE = 64 << 20


def test_memory_of_this_process_and_its_children_is_counted() -> None:
    before = tree_bytes()
    held = np.ones(SIZE, np.uint8)
    assert SIZE * 0.9 < tree_bytes() - before < SIZE * 1.5
    del held
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_hold, args=(ready,))
    child.start()
    assert ready.wait(60)
    assert tree_bytes() > tree_bytes(child.pid) > SIZE
    child.kill()
    child.join()
    assert tree_bytes(child.pid) == 0


def test_file_mapped_pages_do_not_count(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "array.npy")
    np.save(path, np.ones(SIZE, np.uint8))
    before = tree_bytes()
    mapped = np.load(path, mmap_mode="r")
    assert int(mapped.sum()) == SIZE
    assert tree_bytes() - before < SIZE // 4


def test_peak_is_seen_between_samples_and_starts_again() -> None:
    with PeakMemory(interval_s=0.01) as memory:
        memory.reset()
        before = memory.peak_bytes
        held = np.ones(SIZE, np.uint8)
        deadline = time.monotonic() + 30
        while memory.peak_bytes - before < SIZE * 0.9 and time.monotonic() < deadline:
            time.sleep(0.01)
        del held
        assert memory.take() - before > SIZE * 0.9
        assert memory.take() - before < SIZE // 2


def test_return_unused_may_always_be_called() -> None:
    return_unused()


def test_free_bytes_respects_the_system() -> None:
    assert 0 < free_bytes() < 1 << 50


def _hold(ready: object) -> None:
    held = np.ones(SIZE, np.uint8)
    ready.set()  # type: ignore[attr-defined]
    time.sleep(60)
    assert held is not None


@pytest.fixture(autouse=True)
def quiet_heap() -> None:
    return_unused()
