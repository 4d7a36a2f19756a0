"""Answers of people in a collection: they hold in every version and partition, and go with the rows that go."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import cluster
from engine.commands import updates
from engine.errors import ConfigError, DataError
from engine.storage.decisions import DECISIONS_FILE, Decision, append_decisions, read_decisions
from tests.support.vectors import make_blobs

START = 120
POOL = make_blobs(200, 16, rows_per_blob=6, seed=3)
PARTITIONS: dict[str, dict[str, Any]] = {
    "components": {"method": "components", "min_score": 0.75, "min_intimacy": 0.0},
    "map_equation": {"method": "map_equation"},
}


@pytest.fixture(scope="module", params=list(PARTITIONS))
def first(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that holds two decisions: rows of two clusters are one, and two rows of a cluster are not."""
    root = tmp_path_factory.mktemp("answers")
    how = {"method": "cosine", "knn": {"k": 30}, "partition": PARTITIONS[request.param]}
    labels = cluster(POOL[:START], workspace=root / "run", **how).labels
    decisions = [Decision("same", *map(str, apart(labels)[0])), Decision("different", *map(str, together(labels)[0]))]
    append_decisions(root / "decisions.parquet", decisions)
    cluster(POOL[:START], workspace=root / "run", decisions=root / "decisions.parquet", **how)
    return root / "run"


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    """A copy of that run, to change."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def together(labels: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows of one cluster, of different clusters each."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return [(int(rows[0]), int(rows[-1])) for rows in members if len(rows) > 1]


def apart(labels: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows of different clusters."""
    found = together(labels)[1:]
    return [(a[0], b[0]) for a, b in zip(found[::2], found[1::2], strict=False)]


def holds(run: Path, decisions: list[Decision]) -> bool:
    """Tell whether clusters hold all decisions about rows that are there."""
    collection = engine.open(run)
    label = {str(name): label for name, label in zip(collection.row_ids, collection.labels.tolist(), strict=True)}
    there = [each for each in decisions if each.a in label and each.b in label]
    return all((label[each.a] == label[each.b]) == (each.decision == "same") for each in there)


def test_answers_hold_after_every_update(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "MOST_LAYERS", 2)
    decisions = _decided(run)
    assert holds(run, decisions)
    collection = engine.open(run)
    for start in range(START, len(POOL), 20):
        collection.update(POOL[start : start + 20])
        assert holds(run, decisions)
    collection.remove([int(decisions[0].a)])
    assert holds(run, decisions)
    more = [Decision("same", *map(str, apart(collection.labels)[-1])), Decision("different", "140", "141")]
    ids = [str(each) for each in collection.row_ids]
    more[0] = Decision("same", ids[int(more[0].a)], ids[int(more[0].b)])
    append_decisions(run / "more.parquet", more)
    done = collection.update(decisions=run / "more.parquet")
    assert (done.added, done.removed) == (0, 0)
    assert holds(run, [*decisions, *more])
    collection.update(POOL[:7] + np.float32(0.01))
    assert holds(run, [*decisions, *more])
    assert len(collection.decisions()["same"]) == 3


def _decided(run: Path) -> list[Decision]:
    state = engine.open(run).state
    pairs = zip(state.pairs.tolist(), state.same.tolist(), strict=True)
    return [Decision("same" if same else "different", str(a), str(b)) for (a, b), same in pairs]


def test_an_answer_is_taken_back_and_others_are_refused(run: Path) -> None:
    collection, path = engine.open(run), run / DECISIONS_FILE
    before = collection.labels
    a, b = map(str, apart(before)[0])
    append_decisions(path, [Decision("same", a, b)])
    collection.update(decisions=path)
    assert collection.labels[int(a)] == collection.labels[int(b)]
    with pytest.raises(ConfigError, match="done already"):
        collection.update(decisions=path)
    append_decisions(path, [Decision("unsure", a, b)])
    collection.update(decisions=path)
    assert collection.labels[int(a)] != collection.labels[int(b)]
    held = _decided(run)[-1]
    other = "different" if held.decision == "same" else "same"
    assert len(_decided(run)) == 2
    append_decisions(path, [Decision(other, held.a, held.b), Decision("same", a, "999")])
    with pytest.raises(DataError, match="'999', but no row"):
        collection.update(decisions=path)
    assert engine.open(run).version == collection.version
    with pytest.raises(DataError, match="no such file"):
        collection.update(decisions=run / "nothing.parquet")


def test_answers_of_a_review_go_with_the_rows(tmp_path: Path) -> None:
    run = cluster(POOL[:START], workspace=tmp_path / "run", method="cosine", knn={"k": 30}).run
    collection, path = engine.open(run), run / DECISIONS_FILE
    a, b = map(str, apart(collection.labels)[0])
    append_decisions(path, [Decision("same", a, b), Decision("unsure", "5", "6")])
    collection.update(POOL[START:140])  # answers that were not applied yet are
    assert holds(run, [Decision("same", a, b)])
    collection.remove([int(a)])
    assert [(each.a, each.b) for each in read_decisions(path)] == [("5", "6")]
    collection.update(POOL[140:160])
    assert _decided(run) == []
