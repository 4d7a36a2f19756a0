"""Groups of options: typer sees their fields, a command gets the groups."""

from __future__ import annotations

import json
from dataclasses import dataclass
from inspect import signature
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from engine.cli import inspection
from engine.cli.app import app
from engine.cli.options import with_groups
from engine.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: Annotated[int, typer.Option("--depth", min=1)] = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: Annotated[str, typer.Option("--name")]
    inner: Inner
    loud: Annotated[bool, typer.Option("--loud")] = False


def test_fields_stand_in_the_place_of_their_group_and_reach_the_command() -> None:
    seen = []

    def command(
        *, first: Annotated[int, typer.Option("--first")] = 0, group: Outer, last: Annotated[int, typer.Argument()]
    ) -> None:
        seen.append((first, group, last))

    expanded = with_groups(command)
    assert list(signature(expanded).parameters) == ["first", "name", "depth", "loud", "last"]
    app = typer.Typer()
    app.command()(expanded)
    assert CliRunner().invoke(app, ["--name", "x", "--depth", "5", "7"]).exit_code == 0
    assert seen == [(0, Outer(name="x", inner=Inner(depth=5)), 7)]
    assert CliRunner().invoke(app, ["--name", "x", "--depth", "0", "7"]).exit_code == 2


def test_every_command_that_prints_a_result_has_json() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    without = {name for name, each in commands.items() if "as_json" not in {option.name for option in each.params}}
    assert without <= {"review"}  # which serves a page until it is stopped


def test_settings_are_listed_with_what_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    inspection.settings(as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["knn.k"]["default"] == 80
    assert rows["knn.k"]["read_by"] == "every method"
    assert rows["knn.k"]["kind"] == "integer ≥ 1 ≤ 1024"
    assert "resources.memory_bytes" in rows
    assert not [name for name, row in rows.items() if not row["meaning"]]
    inspection.settings(method="star_fc", as_json=True)
    names = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert any(name.startswith("sampling.") for name in names)
    assert not any(name.startswith("gcn_v.") for name in names)
    inspection.settings(schema=True)
    schema = json.loads(capsys.readouterr().out)
    assert {"knn", "resources", "preset"} <= set(schema["properties"])
    with pytest.raises(ConfigError, match="--method nothing: expected one of"):
        inspection.settings(method="nothing")
