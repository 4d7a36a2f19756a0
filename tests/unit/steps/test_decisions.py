"""Decisions of people reach a run: they are read, refused where they cannot hold, and hold in its labels."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import cluster
from engine.errors import DataError
from engine.learning.recalibration import recalibrate
from engine.runs.events import read_events
from engine.steps.decisions import settle
from engine.storage.context import stage_facts
from engine.storage.decisions import Decision, append_decisions, read_decisions

COMPONENTS = {"method": "components", "min_score": 0.75}


def blobs(num: int = 12, per: int = 6, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(num), per)
    rows = rng.normal(size=(num, 24))[identities] + spread * rng.normal(size=(num * per, 24))
    return rows.astype(np.float32), identities


def test_entries_are_added_and_the_last_word_counts(tmp_path: Path) -> None:
    path, when = tmp_path / "decisions.parquet", datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    first = Decision("same", "1", "2", "ann", when, "run", "merge", 0.25)
    append_decisions(path, [first, Decision("different", "3", "4")])
    append_decisions(path, [Decision("withdrawn", "4", "3"), Decision("unsure", "8", "9")])
    assert read_decisions(path)[0] == first
    assert settle(read_decisions(path), "x") == [first]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"decision": ["same"], "a": ["1"]}, "has no column b"),
        ({"decision": ["alike"], "a": ["1"], "b": ["2"]}, "entry 0: expected a decision of same, different"),
        ({"decision": ["same"], "a": ["1"], "b": [None]}, "entry 0: expected the ids of two rows, got '1' and None"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = tmp_path / "decisions.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match=said):
        read_decisions(path)


def test_a_contradiction_names_the_chain_of_rows(tmp_path: Path) -> None:
    rows, _ = blobs()
    path = tmp_path / "decisions.parquet"
    said = [Decision("same", "1", "7"), Decision("different", "1", "9"), Decision("same", "9", "7")]
    append_decisions(path, said)
    with pytest.raises(DataError, match=r"rows 1 and 9 .*different \(entry 1\).*1 = 7 \(entry 0\), 9 = 7 \(entry 2\)"):
        cluster(rows, method="cosine", decisions=path, partition=COMPONENTS)


def test_answers_hold_in_a_run_and_only_they_are_done_again(tmp_path: Path) -> None:
    rows, identities = blobs()
    path, source = tmp_path / "decisions.parquet", tmp_path / "rows.parquet"
    ids = [f"id {row}" for row in range(len(rows))]
    pq.write_table(pa.table({"id": ids, "embedding": list(rows)}), source)
    given: dict[str, Any] = {"method": "cosine", "partition": COMPONENTS, "workspace": tmp_path / "run"}
    before = cluster(source, **given).labels
    np.testing.assert_array_equal(before, identities)
    scored = len(list(read_events(tmp_path / "run")))
    append_decisions(path, [Decision("same", "id 0", "id 6"), Decision("different", "id 12", "id 13")])
    after = cluster(source, decisions=path, **given).labels
    assert after[0] == after[6]
    assert after[12] != after[13]
    np.testing.assert_array_equal(after[18:] - after[18], before[18:] - before[18])
    finished = [event["stage"] for event in list(read_events(tmp_path / "run"))[scored:] if event.get("tasks_run")]
    assert "held" in finished
    assert "score" not in finished
    append_decisions(path, [Decision("same", "id 0", "id 999")])
    with pytest.raises(DataError, match="names row 'id 999', but no row has this id"):
        cluster(source, decisions=path, **given)


@pytest.mark.slow
def test_answers_hold_between_copies_and_move_learned_scores(tmp_path: Path) -> None:
    rows, _ = blobs(num=60, per=8, spread=0.35)
    rows = np.concatenate([rows, rows[:2]])
    path = tmp_path / "decisions.parquet"
    pairs = [(8 * n, 8 * n + 1) for n in range(1, 30)]
    said = [Decision("different", str(a), str(b), asked="sample") for a, b in pairs]
    append_decisions(path, [*said, Decision("different", "0", "480"), Decision("confirmed", "1", "481")])
    run = cluster(rows, decisions=path, workspace=tmp_path / "run")
    assert run.labels[0] != run.labels[480]
    assert run.labels[1] == run.labels[481]
    assert all(run.labels[a] != run.labels[b] for a, b in pairs)
    (folder,) = (tmp_path / "run").glob("recalibration-*")
    (facts,) = stage_facts(folder)
    assert facts["answers"] == len(pairs)
    assert facts["offset"] < 0
    assert "answers" in run.report.read_text()


def test_few_answers_move_scores_little() -> None:
    own = np.linspace(0.1, 5, 40), np.ones(40)
    assert recalibrate(np.empty(0), np.empty(0, bool), np.empty(0), *own) == (1.0, 0.0)
    odds, wrong = np.full(40, 3.0), np.zeros(40, bool)
    few, many = (recalibrate(odds[:n], wrong[:n], np.ones(n), *own) for n in (3, 40))
    assert 3 * many[0] + many[1] < 3 * few[0] + few[1] < 3
    assert 3 * many[0] + many[1] < 0
