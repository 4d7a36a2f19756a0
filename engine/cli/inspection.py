"""Commands that show a run, or project what it would need."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from engine.cli.options import (
    ClusteringOptions,
    EdgeOptions,
    HostOptions,
    ItemsRoot,
    Json,
    LabelFile,
    LabelsColumn,
    OutFile,
    ResourceOptions,
    RunFolder,
    lasting,
    run_request,
)
from engine.cli.printing import console, print_plan, print_projection, print_status, right, tell
from engine.errors import ConfigError


def plan(
    *,
    features: Annotated[
        str | None, typer.Option("--features", help="vectors; may be left out with --hosts", show_default=False)
    ] = None,
    out: Annotated[str, typer.Option("--out", help="folder the run would go to")] = "asterism-run",
    clustering: ClusteringOptions,
    edges: EdgeOptions,
    resources: ResourceOptions,
    as_json: Json = False,
    described: HostOptions,
) -> None:
    """Print the stages, tasks, projected memory, disk and time of a run; runs nothing but a few seconds of probes.

    With --hosts it projects the same costs for a compute cluster, of --features or of 10^8 and 10^9 vectors.
    """
    from engine import api
    from engine.commands.probes import measure_speeds
    from engine.flow.graph import MAX_ROWS

    if features is None and not described.hosts:
        raise ConfigError("plan needs --features, or --hosts to project for a compute cluster")
    if described.rows and (features is not None or not described.hosts):
        raise ConfigError("--rows describes a source for --hosts and goes without --features")
    for count in described.rows or ():
        if not 2 <= count < MAX_ROWS or count != int(count):
            raise ConfigError(
                f"--rows {count:g}: clustering needs at least 2 rows; neighbours are int32 ids, so {MAX_ROWS - 1:,} "
                f"rows are the most"
            )
    request = run_request(features, clustering, edges)
    if described.hosts:
        sizes = [] if features is not None else [int(count) for count in described.rows or (1e8, 1e9)]
        projections = api.project(request, described.compute_cluster(), sizes, resources.block_rows)
        if as_json:
            print(json.dumps([projection.as_dict() for projection in projections]))
            return
        for projection in projections:
            print_projection(projection)
        return
    prepared = api.prepare("run", lasting(out), request, resources.load(edges.settings.config))
    speeds = measure_speeds(prepared.root, prepared.threads)
    if not as_json:
        print_plan(prepared.plan, prepared.source, speeds)
        return
    tree = prepared.plan.as_dict() | {name: getattr(prepared.plan, name) for name in ("memory_bytes", "disk_bytes")}
    print(json.dumps(tree | {"seconds": prepared.plan.seconds(speeds), "speeds": speeds}))


def status(folder: RunFolder, as_json: Json = False) -> None:
    """Show how far a run is, from its folder; works while it runs, from any machine that sees the folder."""
    from engine import api
    from engine.commands.status import run_status
    from engine.runs.events import read_events

    root = api.open_run(folder)
    found = run_status(root)
    if as_json:
        print(json.dumps(found))
        return
    print_status(folder, found)
    failures = [event for event in read_events(root) if event["event"] == "run_failed"]
    if failures and found["state"] != "finished":
        console.say(f"last failure: {failures[-1]['error']}")


def export(
    folder: RunFolder,
    out: OutFile,
    file_format: Annotated[
        LabelFile | None, typer.Option("--format", help="default: what the name ends in, else npy", show_default=False)
    ] = None,
    clusters: Annotated[bool, typer.Option("--clusters", help="one row per cluster instead: Parquet or CSV")] = False,
    level: Annotated[int, typer.Option("--level", help="2: a run's second answer, where its report offers one")] = 1,
    as_json: Json = False,
) -> None:
    """Write a run's labels in the row order of the source, as .npy, .txt, .meta, .parquet or .csv.

    Parquet and CSV have the rows' ids and items too, how sure each row is, the other cluster that it is nearest to, and
    the second answer (level_2) if there is one.
    """
    from engine import api

    place = api.export(folder, lasting(out), file_format and file_format.value, clusters=clusters, level=level)
    what = "clusters" if clusters else "labels"
    tell({what: place}, f"{what}: {place}", as_json=as_json)


def evaluate(
    labels: Annotated[str, typer.Option("--labels", help="identities, one per row; -1 (unknown) is not scored")],
    run_folder: Annotated[str | None, typer.Option("--run", help="a run's folder or URL")] = None,
    pred: Annotated[str | None, typer.Option("--pred", help="a file of predicted labels")] = None,
    labels_column: LabelsColumn = None,
    level: Annotated[int, typer.Option("--level", help="2: the run's second answer, where it has one")] = 1,
    as_json: Json = False,
) -> None:
    """Score a run (--run), or a file of labels (--pred), against identities."""
    from engine import api

    if (run_folder is None) == (pred is None):
        raise ConfigError("evaluate takes either --run RUN or --pred FILE")
    if run_folder is not None:
        scores = api.evaluate_run(run_folder, labels, labels_column=labels_column, level=level)
    else:
        scores = api.evaluate(pred, labels, labels_column=labels_column)
    if as_json:
        print(json.dumps(scores))
        return
    table = Table("metric", right("value"))
    for name, value in scores.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    console.print(table)


def report(
    folder: RunFolder,
    out: Annotated[str | None, typer.Option("--out", help="file or URL to write instead of the run's own")] = None,
    items_root: ItemsRoot = None,
    cluster_map: Annotated[bool, typer.Option("--map", help="with a map of the clusters; takes some seconds")] = False,
    as_json: Json = False,
) -> None:
    """Render a finished run's HTML report again and say where it is; with --out the run itself is only read."""
    from engine import api

    target = None if out is None else lasting(out)
    place, warnings = api.report(folder, target, items_root=items_root or (), cluster_map=cluster_map)
    tell({"report": place, "warnings": warnings}, *(f"report: {each}" for each in warnings), place, as_json=as_json)


def settings(
    method: Annotated[str | None, typer.Option("--method", help="those alone that this method reads")] = None,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON schema of a configuration file")] = False,
) -> None:
    """List every setting: its default, its values and units, and which methods read it."""
    from engine.commands.settings_list import list_settings, settings_schema

    rows = list_settings(method)
    if schema:
        print(json.dumps(settings_schema(), indent=1))
        return
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        console.say(f"{row.name} = {'none' if row.default is None else row.default}")
        console.say(f"    {row.meaning} ({row.kind}; {row.read_by})")


def doctor(as_json: Json = False) -> None:
    """Show versions, cores, memory, GPU, faiss build, Ray and disk, and what a run would use."""
    from engine.cli.doctor import diagnose

    found = diagnose()
    if as_json:
        print(json.dumps(found))
        return
    table = Table("what", "found")
    for name, value in found.items():
        table.add_row(name, str(value))
    console.print(table)
