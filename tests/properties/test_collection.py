"""A collection against a model in memory: rows come and go, people decide, updates are broken off.

Clusters are the components of all pairs of rows above a threshold, which a model can compute from the rows alone. Where
people decided about a row of a component, the model knows no more than which pairs hold.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scipy.sparse.csgraph import connected_components

import engine
from engine import cluster
from engine.commands import updates
from engine.errors import DataError
from engine.steps.decisions import settle
from engine.storage import context
from engine.storage.decisions import Decision, append_decisions
from tests.support.vectors import make_blobs

LEAST, DIM, START = 0.75, 16, 90
POOL = make_blobs(400, DIM, rows_per_blob=6, seed=3)
POOL /= np.linalg.norm(POOL, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of the first rows."""
    root = tmp_path_factory.mktemp("collection") / "run"
    partition = {"method": "components", "min_score": LEAST, "min_intimacy": 0.0}
    cluster(POOL[:START], workspace=root, method="cosine", knn={"k": 60}, partition=partition)
    yield root
    Machine.run = None


class Killed(BaseException):
    """Stands for a kill."""


class Machine(RuleBasedStateMachine):
    """Updates of a collection, each maybe broken off at a commit first."""

    run: Path | None = None

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name) / "run"
        assert self.run is not None
        shutil.copytree(self.run, self.root)
        self.rows: dict[int, np.ndarray] = dict(enumerate(POOL[:START]))  # vectors by id
        self.next_row, self.used, self.before = START, set(engine.open(self.root).labels.tolist()), {}
        self.told: list[Decision] = []
        self.decided: set[int] = set()  # rows whose components people ever decided about

    def teardown(self) -> None:
        self.folder.cleanup()

    def update(self, kill_at: int, **how: object) -> None:
        """Run an update; with ``kill_at`` it is first killed after so many commits."""
        self.before = self.clusters()
        if kill_at:
            left = [kill_at]

            def killing(place: object, record: object) -> None:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                write(place, record)  # type: ignore[arg-type]

            write = context.manifest.write_record
            context.manifest.write_record = killing  # type: ignore[assignment]
            try:
                updates.update(self.root, progress=False, **how)  # type: ignore[arg-type]
            except Killed:
                assert self.clusters() == self.before  # a version is as it was until the next one is whole
            else:
                return
            finally:
                context.manifest.write_record = write
        updates.update(self.root, progress=False, **how)  # type: ignore[arg-type]

    @rule(rows=st.sets(st.integers(START, len(POOL) - 1), min_size=1, max_size=8), kill_at=st.integers(0, 3))
    def add(self, rows: set[int], kill_at: int) -> None:
        path = Path(self.folder.name) / "new.npy"
        vectors = POOL[sorted(rows)]
        np.save(path, np.concatenate([vectors, np.full((1, DIM), 1 + self.next_row, np.float32) * POOL[0]]))
        self.update(kill_at, features=path)
        for vector in [*vectors, POOL[0]]:
            self.rows[self.next_row] = vector
            self.next_row += 1

    @rule(data=st.data(), kill_at=st.integers(0, 3))
    def remove(self, data: st.DataObject, kill_at: int) -> None:
        gone = data.draw(st.sets(st.sampled_from(sorted(self.rows)), min_size=1, max_size=5))
        path = Path(self.folder.name) / "gone.txt"
        path.write_text("".join(f"{each}\n" for each in sorted(gone)))
        self.update(kill_at, remove=path)
        for each in gone:
            del self.rows[each]

    @rule(data=st.data(), decision=st.sampled_from(["same", "different", "unsure"]), kill_at=st.integers(0, 2))
    def decide(self, data: st.DataObject, decision: Any, kill_at: int) -> None:
        rows = st.lists(st.sampled_from(sorted(self.rows)), min_size=2, max_size=2, unique=True)
        told = [*self.told, Decision(decision, *map(str, data.draw(rows)))]
        path = Path(self.folder.name) / "decisions.parquet"
        path.unlink(missing_ok=True)
        append_decisions(path, told)
        try:
            self.held(told)
        except DataError:
            with pytest.raises(DataError, match="were decided to be different"):
                updates.update(self.root, decisions=path, progress=False)
            return
        self.told = told
        self.update(kill_at, decisions=path)

    def held(self, told: list[Decision]) -> list[Decision]:
        """What holds of entries about rows that are there; raises ``DataError`` for a contradiction."""
        return settle([each for each in told if {int(each.a), int(each.b)} <= set(self.rows)], "")

    def clusters(self) -> dict[int, int]:
        collection = engine.open(self.root)
        return dict(zip(collection.row_ids, collection.labels.tolist(), strict=True))

    @invariant()
    def is_as_the_model(self) -> None:
        found = self.clusters()
        assert list(found) == list(self.rows)
        vectors = np.stack(list(self.rows.values()))
        _, parts = connected_components(vectors @ vectors.T > LEAST)
        held = self.held(self.told)
        for each in held:
            assert (found[int(each.a)] == found[int(each.b)]) == (each.decision == "same")
        self.decided |= {int(row) for each in self.told for row in (each.a, each.b)}
        touched = {int(part) for row, part in zip(found, parts, strict=True) if row in self.decided}
        self.decided |= {row for row, part in zip(found, parts, strict=True) if int(part) in touched}
        pairs = {(found[row], int(part)) for row, part in zip(found, parts, strict=True) if row not in self.decided}
        assert len(pairs) == len({label for label, _ in pairs}) == len({part for _, part in pairs})
        assert not {label for label, _ in pairs} & {found[row] for row in self.decided & set(found)}
        members = [{row for row, label in table.items() if label == each} for table in (self.before, found)
                   for each in sorted(set(table.values()))]  # fmt: skip
        kept = members[: len(set(self.before.values()))]
        for cluster_id, rows in zip(sorted(set(self.before.values())), kept, strict=True):
            if rows in members[len(kept) :]:  # the same rows have the same id
                assert {found[row] for row in rows} == {cluster_id}
        new = set(found.values()) - set(self.before.values())
        assert not self.before or not new & self.used
        self.used |= new


def test_a_collection_is_as_its_model(run: Path) -> None:
    Machine.run = run
    test = Machine.TestCase
    test.settings = settings(
        max_examples=4, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck)
    )
    test().runTest()
