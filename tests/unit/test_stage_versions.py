"""A stage whose code has changed has a new version, so that results of old and new code never mix."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import stage_code

from engine.plan import Cost, Stage, stage_digests


def test_changed_code_has_a_new_version(tmp_path: Path) -> None:
    recorded, found = json.loads(stage_code.RECORD.read_text()), stage_code.found_code(tmp_path)
    unversioned = [
        name for name in found.keys() & recorded.keys()
        if found[name]["code"] != recorded[name]["code"] and found[name]["versions"] == recorded[name]["versions"]
    ]  # fmt: skip
    assert not unversioned, (
        f"the code of {', '.join(sorted(unversioned))} has changed and the version has not: raise VERSION if a result "
        f"can change, then record the code: python tests/stage_code.py"
    )
    assert found == recorded, "versions, or functions, have changed: record them: python tests/stage_code.py"


def test_every_function_of_a_stage_is_in_some_plan() -> None:
    declared = {
        f"{'.'.join(path.relative_to(stage_code.ROOT).with_suffix('').parts)}:{node.name}"
        for folder in ("stages", "methods")
        for path in sorted((stage_code.ROOT / "engine" / folder).glob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and _runs_a_stage(node)
    }
    assert declared == set(json.loads(stage_code.RECORD.read_text()))


@pytest.mark.parametrize(
    ("module", "old", "new", "changed", "same"),
    [
        ("clustering.operating_point", "TOLERANCE = 0.01", "TOLERANCE = 0.02", "engine.stages.point:run", "knn:search"),
        ("clustering.union_find", "if a < b", "if a > b", "engine.stages.partition:components", "ingest:run"),
        ("stages.point", "facts |= {", "# a comment\n    facts |= {", "", "point:run"),
        ("stages.point", "Write ``point.json``", "Leave ``point.json``", "", "point:run"),
    ],
)  # fmt: skip
def test_a_changed_constant_names_the_stages_that_reach_it(
    monkeypatch: pytest.MonkeyPatch, module: str, old: str, new: str, changed: str, same: str
) -> None:
    functions = {changed, f"engine.stages.{same}"} - {""}
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
    assert {name for name in functions if before[name] != after[name]} == {changed} - {""}


def test_a_module_may_move_and_a_function_may_not_be_another() -> None:
    def digest(function: str, version: int = 1) -> str:
        (found,) = stage_digests([Stage("knn", function, version, {"k": 5}, {}, 10, Cost())], "source")
        return found

    assert digest("engine.stages.knn:search") == digest("engine.steps.graph:search")
    assert digest("engine.stages.knn:search") != digest("engine.stages.knn:import_graph")
    assert digest("engine.stages.knn:search") != digest("engine.stages.knn:search", version=2)


def _runs_a_stage(node: ast.FunctionDef) -> bool:
    returned = ast.unparse(node.returns) if node.returns else ""
    return [argument.arg for argument in node.args.args] == ["task", "start", "stop"] and returned.startswith("dict")
