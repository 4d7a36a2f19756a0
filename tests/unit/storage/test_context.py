from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.storage import context, manifest
from engine.storage.context import CompanionTask, TaskContext, committed_records, hold, read_npy, release_held, run_call
from engine.storage.manifest import Record, find_damage
from engine.storage.places import Place
from engine.storage.tables import read_columns
from engine.units import CHUNK_ROWS
from tests.support.toy_stages import count_up, make_calls

NUM_ROWS = CHUNK_ROWS + 10


def test_every_output_is_in_the_record(tmp_path: Path) -> None:
    def function(task: TaskContext, start: int, stop: int) -> dict[str, int]:
        task.write_rows("rows", np.zeros((stop - start, 2)), np.float32)
        task.write_rows("whole", np.zeros(7), np.int32, num_rows=7)
        task.write_table("edges", {"source": np.arange(3, dtype=np.int32), "name": ["a", "b", "c"]})
        task.write_npy("array", np.arange(4))
        task.write_json("facts", {"a": 1})
        return {"edges": 3}

    (call, _) = make_calls(tmp_path / "stage", "count_up", NUM_ROWS)
    record = run_call(call, function)
    assert {output.path for output in record.outputs} == {
        "rows/zarr.json", "rows/c/0/0", "whole/zarr.json", "whole/c/0", "edges/000000000000-000000004096.arrow",
        "array.npy", "facts.json",
    }  # fmt: skip
    files = {str(p.relative_to(tmp_path / "stage")) for p in (tmp_path / "stage").rglob("*") if p.is_file()}
    assert files - {output.path for output in record.outputs} == {"records/000000000000-000000004096.json"}
    assert find_damage(tmp_path / "stage", record) is None
    np.testing.assert_array_equal(read_npy(tmp_path / "stage", "array"), np.arange(4))
    (source,) = read_columns(tmp_path / "stage" / "edges/000000000000-000000004096.arrow", ("source",))
    np.testing.assert_array_equal(source, np.arange(3))
    assert committed_records(tmp_path / "stage", call.digest) == [record]


def test_no_record_without_success(tmp_path: Path) -> None:
    def function(task: TaskContext, start: int, stop: int) -> dict[str, int]:
        count_up(task, start, stop)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run_call(make_calls(tmp_path, "count_up", 10)[0], function)
    assert not (tmp_path / "records").exists()


def test_records_that_others_cover_do_not_count_twice(tmp_path: Path) -> None:
    for start, stop in [(0, 8), (4, 8), (8, 12)]:
        manifest.write_record(tmp_path, Record("d", start, stop, ()))
    assert [(r.start, r.stop) for r in committed_records(tmp_path, "d")] == [(0, 8), (8, 12)]


def test_progress_is_readable_while_it_is_written(tmp_path: Path) -> None:
    task = CompanionTask(make_calls(tmp_path, "count_up", 10)[0])
    assert context.read_progress(tmp_path) is None
    task.report(0.25, "step 5")
    task.report(0.5, "too soon to be written")
    assert context.read_progress(tmp_path) == (0.25, "step 5")
    (tmp_path / "progress.json").write_text("{")
    assert context.read_progress(tmp_path) is None


def test_arrays_are_mapped_once_and_dropped_on_release(tmp_path: Path) -> None:
    release_held()
    (call,) = make_calls(tmp_path, "count_up", 10)
    count_up(TaskContext(call, Place(Path(call.folder).parent), call), 0, 10)
    task = CompanionTask(replace(call, inputs={"before": str(tmp_path)}))
    first = task.array("before", "values")
    assert task.array("before", "values") is first
    release_held()
    assert task.array("before", "values") is not first
    release_held()


def test_what_was_held_longest_ago_goes_first() -> None:
    release_held()
    loads = []
    for key in [*range(16), 0, 16, 0, 1]:
        hold(("test", key), lambda key=key: loads.append(key) or key)  # type: ignore[misc]
    assert loads == [*range(17), 1]
    release_held()
