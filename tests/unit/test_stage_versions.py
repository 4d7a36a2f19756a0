"""A stage whose code has changed has a new version, so that results of old and new code never mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.runs.plan import stage_digests
from engine.runs.step import Outside, Step
from engine.stages import Cost
from engine.steps.ingest import StoredRows, Vectors
from engine.steps.knn import Sampled
from tests.support import stage_code


def test_changed_code_has_a_new_version(tmp_path: Path) -> None:
    recorded, found = json.loads(stage_code.RECORD.read_text()), stage_code.found_code(tmp_path)
    unversioned = [
        name for name in found.keys() & recorded.keys()
        if found[name]["code"] != recorded[name]["code"] and found[name]["version"] == recorded[name]["version"]
    ]  # fmt: skip
    assert not unversioned, (
        f"the code of {', '.join(sorted(unversioned))} has changed and the version has not: raise it if a result "
        f"can change, then record the code: python -m tests.support.stage_code"
    )
    assert found == recorded, "versions or kinds of steps have changed, record them: python -m tests.support.stage_code"


def test_every_step_is_in_some_plan_and_has_a_kind_of_its_own() -> None:
    declared = [step for step in _subclasses(Step) if "kind" in vars(step) and not issubclass(step, Outside)]
    engines = [step for step in declared if step.__module__.startswith("engine.")]
    assert {step.kind for step in engines} == set(json.loads(stage_code.RECORD.read_text()))
    assert len({step.kind for step in engines}) == len(engines)


def _subclasses(kind: type) -> set[type]:
    return {each for child in kind.__subclasses__() for each in (child, *_subclasses(child))}


@pytest.mark.parametrize(
    ("module", "old", "new", "changed", "same"),
    [
        ("clustering.label_free", "CODELENGTH_RISE = 0.01", "CODELENGTH_RISE = 0.02", "point:ChosenPoint", "knn:Truth"),
        ("graph.similarity", "TILE_ROWS = ", "TILE_ROWS = 2 * ", "knn:ImportedGraph", "ingest:Ingest"),
        ("steps.point", "facts |= {", "# a comment\n        facts |= {", "", "point:ChosenPoint"),
        ("steps.point", "min_score, max_size and the reason", "all that was chosen", "", "point:ChosenPoint"),
        ("steps.point", "seconds=n / 8e5", "seconds=n / 9e9", "", "point:ChosenPoint"),
    ],
)  # fmt: skip
def test_a_changed_constant_names_the_stages_that_reach_it(
    monkeypatch: pytest.MonkeyPatch, module: str, old: str, new: str, changed: str, same: str
) -> None:
    functions = {f"engine.steps.{name}" for name in (changed, same) if name}
    before = {name: stage_code.code_hash(name) for name in functions}
    read = stage_code.source_text

    def changed_text(name: str) -> str:
        assert name != f"engine.{module}" or old in read(name)
        return read(name).replace(old, new, 1) if name == f"engine.{module}" else read(name)

    monkeypatch.setattr(stage_code, "source_text", changed_text)
    stage_code.forget()
    try:
        after = {name: stage_code.code_hash(name) for name in functions}
    finally:
        stage_code.forget()
    assert {name for name in functions if before[name] != after[name]} == (
        {f"engine.steps.{changed}"} if changed else set()
    )


def test_a_fingerprint_is_of_kind_version_parameters_and_inputs_alone() -> None:
    class Kept(Vectors[None]):
        kind, version, title = "kept", 1, "kept"

        def cost(self) -> Cost:
            return Cost()

    class Moved(Kept):
        title = "moved"

    class Changed(Kept):
        version = 2

    def digest(kind: type[Vectors[None]], dim: int = 3, **given: Any) -> str:
        first = StoredRows(num_rows=9, dim=dim, folder="a")
        features = kind(num_rows=9, dim=dim, **given)
        step = Sampled(num_rows=9, features=features, rows=first, order=None, k=2, samples=3, seed=0)
        return stage_digests([step.features.as_stage(), step.as_stage()], "source")[1]

    kept = digest(Kept)
    assert kept == digest(Moved) == digest(Kept, prefix="second_") == digest(Kept, scratch=True)
    assert len({kept, digest(Changed), digest(Kept, dim=4)}) == 3
