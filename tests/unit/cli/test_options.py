"""Groups of options: typer sees their fields, a command gets the groups."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Annotated

import typer
from typer.testing import CliRunner

from engine.cli.options import with_groups


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
