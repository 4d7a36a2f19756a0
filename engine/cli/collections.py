"""Commands for a run that lives on: new rows, rows that go, queries, and what has changed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from engine.cli.options import (
    BadRows,
    ItemsColumn,
    Json,
    OutFile,
    Quiet,
    ResourceOptions,
    RowOptions,
    RunFolder,
    VectorOptions,
    lasting,
)
from engine.cli.printing import console, print_update


def update(
    *,
    folder: RunFolder,
    features: Annotated[
        str | None, typer.Option("--features", help="new rows, as vectors in any supported format")
    ] = None,
    remove: Annotated[str | None, typer.Option("--remove", help="a file of ids of rows that go, one to a line")] = None,
    decisions: Annotated[
        str | None,
        typer.Option("--decisions", help="decisions.parquet to hold, alone or with either; default: the run's"),
    ] = None,
    vectors: VectorOptions,
    items_column: ItemsColumn = None,
    rows: RowOptions,
    resources: ResourceOptions,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add rows to a finished run, or remove some for good; clusters keep their ids. Run again, it resumes."""
    from engine import api
    from engine.storage.remote import absolute

    done = api.update(
        folder,
        features=None if features is None else absolute(features),
        remove=remove,
        decisions=decisions,
        dim=vectors.dim,
        column=vectors.column,
        items_column=items_column,
        bits=vectors.packed,
        zero_vectors=rows.zero_vectors and rows.zero_vectors.value,
        bad_rows=rows.bad_rows and rows.bad_rows.value,
        resources=resources.load(),
        progress=not quiet,
    )
    print_update(absolute(folder), done, as_json=as_json)


def assign(
    *,
    folder: RunFolder,
    features: Annotated[str, typer.Option("--features", help="queries, as vectors in any supported format")],
    out: OutFile,
    vectors: VectorOptions,
    bad_rows: BadRows = None,
    resources: ResourceOptions,
    as_json: Json = False,
) -> None:
    """Tell which cluster each vector would join, how likely, and the runners-up; nothing changes."""
    from engine import api

    place, rows = api.assign(
        folder,
        features,
        lasting(out),
        dim=vectors.dim,
        column=vectors.column,
        bits=vectors.packed,
        bad_rows=bad_rows.value if bad_rows else "error",
        resources=resources.load(),
    )
    if as_json:
        print(json.dumps({"rows": rows, "assigned": place}))
        return
    console.say(f"{rows:,} rows: {place}")


def diff(
    folder: RunFolder,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="folder of another run of the same rows")],
    out: Annotated[str | None, typer.Option("--out", help="table to write, .parquet or .csv")] = None,
    as_json: Json = False,
) -> None:
    """Show what was merged, split, moved, born or gone between two clusterings, by the rows' ids."""
    from engine import api

    place = None if out is None else lasting(out)
    found = api.difference(folder, other, place)
    counts = {event: found.count(event) for event in ("merged", "split", "moved", "gone", "born")}
    if as_json:
        print(json.dumps({"rows": found.rows, "same": found.same, **counts}))
        return
    console.say(f"{found.rows:,} rows of both; {found.same:,} clusters are the same")
    for event, (lines, rows) in counts.items():
        console.say(f"  {event}: {rows:,} rows, {lines:,} {'pairs of clusters' if lines != 1 else 'pair of clusters'}")
    if place is not None:
        console.say(f"table: {place}")
