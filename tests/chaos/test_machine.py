"""Any sequence of runs, crashes, damage, changed settings and block sizes agrees with a model in memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from engine.storage.arrays import map_array
from engine.storage.context import read_npy
from engine.units import CHUNK_ROWS
from tests.support.toy_stages import CrashingExecutor, Killed, make_toy_plan, run_toy

NUM_CHUNKS = 5
NUM_ROWS = NUM_CHUNKS * CHUNK_ROWS - 11

# Ranges of rows committed, by stage and what its result depends on.
Key = tuple[str, int, int]
Range = tuple[int, int]


class RunMachine(RuleBasedStateMachine):
    """The model: which ranges each stage has committed. Everything else follows."""

    @initialize()
    def begin(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="machine-"))
        self.root = self.scratch / "run"
        self.add = self.setting = 0
        self.block = 1
        self.committed: dict[Key, set[Range]] = {}
        self.folders: dict[Key, Path] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    def key(self, stage: str) -> Key:
        return (stage, self.add, 0 if stage == "numbers" else self.setting)

    @rule(crash_after=st.one_of(st.none(), st.integers(0, 2 * NUM_CHUNKS)))
    def run(self, crash_after: int | None) -> None:
        plan = make_toy_plan(NUM_ROWS, add=self.add, setting=self.setting, block_rows=self.block * CHUNK_ROWS)
        for stage in plan.stages:
            self.folders[self.key(stage.name)] = self.root / stage.folder
        pending = {
            (stage.name, row) for stage in plan.stages for row in range(0, stage.num_rows, CHUNK_ROWS)
            if not any(start <= row < stop for start, stop in self.committed.get(self.key(stage.name), ()))
        }  # fmt: skip
        executor = CrashingExecutor(crash_after)
        try:
            run_toy(self.root, plan, executor)
            finished = True
        except Killed:
            finished = False
        ran = [(stage, row) for stage, start, stop in executor.ran for row in range(start, stop, CHUNK_ROWS)]
        assert len(ran) == len(set(ran)), "a task ran twice"
        assert set(ran) <= pending, "a committed task ran again"
        for stage, start, stop in executor.ran:
            self.committed.setdefault(self.key(stage), set()).add((start, stop))
        if finished:
            assert set(ran) == pending, "something is missing"
            current = {self.key(stage.name) for stage in plan.stages}
            self.committed = {key: ranges for key, ranges in self.committed.items() if key in current}
            self.check_results()

    def check_results(self) -> None:
        numbers = np.arange(NUM_ROWS) + self.add
        np.testing.assert_array_equal(map_array(self.folders[self.key("numbers")], "values"), numbers)
        np.testing.assert_array_equal(map_array(self.folders[self.key("doubled")], "values"), 2 * numbers)
        assert read_npy(self.folders[self.key("total")], "total")[0] == 2 * numbers.sum()
        assert {path.name for path in self.root.glob("*-*")} == {self.folders[key].name for key in self.committed}

    @rule(blocks=st.integers(1, NUM_CHUNKS))
    def change_block_size(self, blocks: int) -> None:
        self.block = blocks

    @rule(add=st.integers(0, 1), setting=st.integers(0, 1))
    def change_settings(self, add: int, setting: int) -> None:
        self.add, self.setting = add, setting

    @precondition(lambda self: any(self.committed.values()))
    @rule(
        data=st.data(),
        what=st.sampled_from(["chunk", "record"]),
        how=st.sampled_from(["flip", "cut", "remove"]),
        place=st.floats(0, 1, exclude_max=True),
    )
    def damage(self, data: st.DataObject, what: str, how: str, place: float) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, ranges in self.committed.items() if ranges)))
        start, stop = data.draw(st.sampled_from(sorted(self.committed[key])))
        if what == "record":
            path = self.folders[key] / "records" / f"{start:012d}-{stop:012d}.json"
        elif key[0] == "total":
            path = self.folders[key] / "total.npy"
        else:
            chunk = data.draw(st.integers(start // CHUNK_ROWS, (stop - 1) // CHUNK_ROWS))
            path = self.folders[key] / "values" / "c" / str(chunk)
        content = bytearray(path.read_bytes())
        if how == "remove":
            path.unlink()
        elif how == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            content[int(place * len(content))] ^= 0x10
            path.write_bytes(content)
        self.committed[key].remove((start, stop))


TestRunMachine = RunMachine.TestCase
TestRunMachine.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(autouse=True)
def in_memory_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write to memory where there is such a file system: the disk's own speed is no matter here."""
    if Path("/dev/shm").is_dir():
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
