"""The command line: parses, calls, prints."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.table import Table

from engine import api
from engine.cli.doctor import diagnose
from engine.cli.options import (
    BlockRows,
    Column,
    Config,
    Device,
    Dim,
    ExecutorName,
    ExecutorOption,
    Features,
    ItemsColumn,
    ItemsRoot,
    Json,
    KnnGraph,
    LabelFile,
    Labels,
    LabelsColumn,
    Memory,
    Method,
    ModelOption,
    Out,
    OutFile,
    OutFolder,
    PrecisionBias,
    Quiet,
    RunFolder,
    Seed,
    Set,
    StandinFormat,
    Threads,
    Workers,
    ZeroVectorPolicy,
    ZeroVectors,
)
from engine.cli.printing import console, print_comparison, print_projection, print_result, right
from engine.commands import summary
from engine.commands.probes import measure_speeds
from engine.commands.projection import ComputeCluster
from engine.commands.resources import Resources, load_resources
from engine.comparison.compare import REPORT_FILE as COMPARISON_FILE
from engine.comparison.compare import compare as compare_methods
from engine.config import load_settings, parse_overrides
from engine.conversion import convert as convert_model
from engine.errors import ConfigError, EngineError
from engine.methods import METHODS
from engine.pipeline import MAX_ROWS
from engine.process.masking import masked
from engine.process.stopping import stop_cleanly
from engine.process.terminal import let_every_name_be_printed, shown_lines
from engine.runs.effort import Effort
from engine.runs.events import read_events
from engine.storage.paths import os_reason
from engine.storage.remote import absolute
from engine.units import human_bytes, parse_bytes
from engine.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_TRAINED = [name for name, method in METHODS.items() if method.trains]


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Cluster embeddings by identity: vectors in, labels out, resumable at every step.

    Start with: asterism run --features vectors.npy --out run
    """
    if show:
        print(__version__)
        raise typer.Exit


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="vectors in any supported format")],
    out: Out,
    dim: Dim = None,
    column: Column = None,
    items_column: ItemsColumn = None,
    zero_vectors: ZeroVectors = None,
    config: Config = None,
    settings: Set = None,
    seed: Seed = None,
    memory: Memory = None,
    threads: Threads = 0,
    workers: Workers = 0,
    executor: ExecutorOption = None,
    device: Device = "auto",
    block_rows: BlockRows = 0,
    quiet: Quiet = False,
) -> None:
    """Read vectors once into a store: validated, normalised, sharded; runs then start from it."""
    request = api.Request(
        features=absolute(source),
        dim=dim,
        column=column,
        items_column=items_column,
        settings=load_settings(config, settings, seed=seed, **_zero(zero_vectors)),
    )
    prepared = api.prepare(
        "store", _lasting(out), request, _resources(memory, threads, workers, executor, device, block_rows, config)
    )
    folders = api.execute(prepared, progress=not quiet)
    console.say(f"{prepared.source.num_rows:,} x {prepared.source.dim} vectors in {out}")
    console.say(f"features: zarr array {folders['ingest'] / 'features'}")


@app.command()
def train(
    features: Features,
    labels: Annotated[str, typer.Option("--labels", help="identities, one per row; -1 is not trained on")],
    out: Out,
    method: Annotated[
        str | None,
        typer.Option("--method", help=f"one of {', '.join(_TRAINED)}; default: structural or star_fc, by size"),
    ] = None,
    dim: Dim = None,
    column: Column = None,
    labels_column: LabelsColumn = None,
    knn_graph: KnnGraph = None,
    zero_vectors: ZeroVectors = None,
    config: Config = None,
    settings: Set = None,
    seed: Seed = None,
    memory: Memory = None,
    threads: Threads = 0,
    workers: Workers = 0,
    executor: ExecutorOption = None,
    device: Device = "auto",
    block_rows: BlockRows = 0,
    quiet: Quiet = False,
) -> None:
    """Train a method on labelled vectors; thresholds are chosen on held-out identities. Run again, it resumes."""
    request = api.Request(
        features=absolute(features),
        labels=absolute(labels),
        labels_column=labels_column,
        dim=dim,
        column=column,
        knn_graph=_text(knn_graph),
        settings=load_settings(config, settings, seed=seed, method=method, **_zero(zero_vectors)),
    )
    prepared = api.prepare(
        "training", _lasting(out), request, _resources(memory, threads, workers, executor, device, block_rows, config)
    )
    api.execute(prepared, progress=not quiet)
    model = json.loads((prepared.root / "model.json").read_text())
    console.say(f"{model['method']} model: {out}")
    for name, point in model["operating_points"].items():
        chosen = " (preferred)" if name == model["preferred"] else ""
        console.say(f"  {name}{chosen}: {json.dumps(point)}")


@app.command()
def run(
    features: Features,
    out: Out,
    model: ModelOption = None,
    labels: Labels = None,
    labels_column: LabelsColumn = None,
    method: Method = None,
    dim: Dim = None,
    column: Column = None,
    items_column: ItemsColumn = None,
    items_root: ItemsRoot = None,
    knn_graph: KnnGraph = None,
    zero_vectors: ZeroVectors = None,
    precision_bias: PrecisionBias = None,
    config: Config = None,
    settings: Set = None,
    seed: Seed = None,
    memory: Memory = None,
    threads: Threads = 0,
    workers: Workers = 0,
    executor: ExecutorOption = None,
    device: Device = "auto",
    block_rows: BlockRows = 0,
    quiet: Quiet = False,
) -> None:
    """Cluster vectors. Running it again resumes; changed settings redo what they affect. --labels only score."""
    request = _run_request(
        features,
        model,
        labels,
        labels_column,
        method,
        dim,
        column,
        items_column,
        knn_graph,
        zero_vectors,
        config,
        settings,
        seed,
        precision_bias,
    )
    request = replace(request, items_root=api.items_folders(items_root))
    prepared = api.prepare(
        "run", _lasting(out), request, _resources(memory, threads, workers, executor, device, block_rows, config)
    )
    api.execute(prepared, progress=not quiet)
    print_result(prepared.place)


@app.command()
def plan(
    features: Annotated[
        str | None, typer.Option("--features", help="vectors; may be left out with --hosts", show_default=False)
    ] = None,
    out: Annotated[str, typer.Option("--out", help="folder the run would go to")] = "asterism-run",
    model: ModelOption = None,
    labels: Labels = None,
    labels_column: LabelsColumn = None,
    method: Method = None,
    dim: Dim = None,
    column: Column = None,
    items_column: ItemsColumn = None,
    knn_graph: KnnGraph = None,
    zero_vectors: ZeroVectors = None,
    precision_bias: PrecisionBias = None,
    config: Config = None,
    settings: Set = None,
    seed: Seed = None,
    memory: Memory = None,
    threads: Threads = 0,
    workers: Workers = 0,
    executor: ExecutorOption = None,
    device: Device = "auto",
    block_rows: BlockRows = 0,
    as_json: Json = False,
    hosts: Annotated[int, typer.Option("--hosts", min=0, help="project for a compute cluster of so many hosts")] = 0,
    gpus_per_host: Annotated[int, typer.Option("--gpus-per-host", min=0, help="GPUs of each, as an H100")] = 0,
    cores_per_host: Annotated[int, typer.Option("--cores-per-host", min=1, help="cores of each")] = 64,
    memory_per_host: Annotated[str, typer.Option("--memory-per-host", help="memory a run may use of each")] = "512GB",
    disk_per_host: Annotated[
        str | None, typer.Option("--disk-per-host", help="disk a run may use of each; default: any")
    ] = None,
    rows: Annotated[
        list[float] | None, typer.Option("--rows", help="with --hosts: sizes instead of --features; may be repeated")
    ] = None,
) -> None:
    """Print the stages, tasks, projected memory, disk and time of a run; runs nothing but a few seconds of probes.

    With --hosts it projects the same costs for a compute cluster, of --features or of 10^8 and 10^9 vectors.
    """
    if features is None and not hosts:
        raise ConfigError("plan needs --features, or --hosts to project for a compute cluster")
    if rows and (features is not None or not hosts):
        raise ConfigError("--rows describes a source for --hosts and goes without --features")
    for count in rows or ():
        if not 2 <= count < MAX_ROWS or count != int(count):
            raise ConfigError(
                f"--rows {count:g}: clustering needs at least 2 rows; neighbours are int32 ids, so {MAX_ROWS - 1:,} "
                f"rows are the most"
            )
    request = _run_request(
        features,
        model,
        labels,
        labels_column,
        method,
        dim,
        column,
        items_column,
        knn_graph,
        zero_vectors,
        config,
        settings,
        seed,
        precision_bias,
    )
    if hosts:
        disk = parse_bytes(disk_per_host, "--disk-per-host") if disk_per_host else 0
        each = parse_bytes(memory_per_host, "--memory-per-host")
        cluster = ComputeCluster(hosts, gpus_per_host, cores_per_host, each, disk)
        sizes = [] if features is not None else [int(count) for count in rows or (1e8, 1e9)]
        projections = api.project(request, cluster, sizes, block_rows)
        if as_json:
            print(json.dumps([projection.as_dict() for projection in projections]))
            return
        for projection in projections:
            print_projection(projection)
        return
    prepared = api.prepare(
        "run", _lasting(out), request, _resources(memory, threads, workers, executor, device, block_rows, config)
    )
    made = prepared.plan
    speeds = measure_speeds(prepared.root, prepared.threads)
    if as_json:
        print(
            json.dumps(
                {
                    **made.as_dict(),
                    "memory_bytes": made.memory_bytes,
                    "disk_bytes": made.disk_bytes,
                    "seconds": made.seconds(speeds),
                    "speeds": speeds,
                }
            )
        )
        return
    source = prepared.source
    console.say(f"{source.path}: {source.num_rows:,} x {source.dim}")
    table = Table("stage", *(right(name) for name in ("tasks", "rows per task", "memory", "disk", "seconds")))
    for stage in made.stages:
        block = f"{min(stage.block_rows, stage.num_rows):,}" if stage.num_rows > 1 else ""
        name = f"{stage.name} (if needed)" if stage.unless else stage.name
        table.add_row(
            name,
            str(stage.num_tasks()),
            block,
            human_bytes(stage.memory_bytes),
            human_bytes(stage.disk_bytes),
            f"{stage.seconds(speeds):,.1f}",
        )
    table.add_section()
    table.add_row(
        "whole run",
        "",
        "",
        human_bytes(made.memory_bytes),
        human_bytes(made.disk_bytes),
        f"{made.seconds(speeds):,.1f}",
    )
    console.print(table)


@app.command()
def compare(
    features: Annotated[str, typer.Option("--features", help="vectors in any supported format")],
    labels: Annotated[
        str, typer.Option("--labels", help="identities, one per row; -1 (unknown) is clustered, not scored")
    ],
    methods: Annotated[
        str, typer.Option("--methods", help="by commas: METHOD or METHOD/PRESET, each may be followed by :PARTITION")
    ],
    out: OutFolder,
    split: Annotated[
        str | None, typer.Option("--split", help="0 (train) or 1 (test) per row; default: half of the identities")
    ] = None,
    dim: Dim = None,
    column: Column = None,
    labels_column: LabelsColumn = None,
    settings: Set = None,
    seed: Seed = None,
    memory: Memory = None,
    threads: Threads = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train each method on half of the identities, cluster the rows of the others, and score. Run again, it resumes.

    Methods learn, and choose their parameters, on the train identities alone; all share vectors and KNN graph.
    """
    resources = _resources(memory, threads, 0, None, device, 0)
    rows = compare_methods(
        features,
        labels,
        out,
        methods.split(","),
        split=split,
        dim=dim,
        column=column,
        labels_column=labels_column,
        settings=parse_overrides(settings),
        seed=seed,
        resources=resources.model_dump(),
        progress=not quiet,
    )
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print_comparison(rows, Path(out).absolute() / COMPARISON_FILE)


@app.command()
def convert(
    states: Annotated[list[str], typer.Argument(metavar="STATE...", help="state dicts, as torch or safetensors files")],
    method: Annotated[
        str, typer.Option("--method", help="gcn_v, gcn_e (GCN-V's file first), l_gcn, star_fc (head last)")
    ],
    out: OutFolder,
    k: Annotated[int, typer.Option("--k", min=1, help="neighbours that it was trained with")] = 80,
) -> None:
    """Make a model of the weights of another release; tensors are read, nothing is unpickled."""
    convert_model(method, states, out, k=k)
    console.say(f"{method} model: {out}")


@app.command()
def resume(
    folder: RunFolder,
    memory: Memory = None,
    threads: Threads = 0,
    workers: Workers = 0,
    executor: ExecutorOption = None,
    device: Device = "auto",
    block_rows: BlockRows = 0,
    quiet: Quiet = False,
) -> None:
    """Finish a run, store or training from its folder alone; what is committed is skipped."""
    resources = _resources(memory, threads, workers, executor, device, block_rows)
    prepared = api.resume(folder, resources, progress=not quiet)
    if prepared.kind == "run":
        print_result(prepared.place)


@app.command()
def status(folder: RunFolder, as_json: Json = False) -> None:
    """Show how far a run is, from its folder; works while it runs, from any machine that sees the folder."""
    root = api.open_run(folder)
    found = summary.run_status(root)
    if as_json:
        print(json.dumps(found))
        return
    table = Table("stage", *(right(name) for name in ("committed", "tasks", "task seconds", "peak memory")))
    for stage in found["stages"]:
        peak = human_bytes(stage["peak_bytes"]) if stage["peak_bytes"] else ""
        share = f"{stage['rows_committed'] / stage['rows']:.0%}"
        tasks = f"{stage['tasks_committed']} of {stage['tasks']}"
        table.add_row(stage["stage"], share, tasks, f"{stage['task_seconds']:,.1f}", peak)
    console.say(f"{found['kind']} {folder}: {found['state']}")
    console.print(table)
    console.say(str(Effort(**found["effort"])))
    if found["state"] == "stopped":
        console.say(f"nothing works on it now; asterism resume {folder}")
    failures = [event for event in read_events(root) if event["event"] == "run_failed"]
    if failures and found["state"] != "finished":
        console.say(f"last failure: {failures[-1]['error']}")


@app.command()
def export(
    folder: RunFolder,
    out: OutFile,
    file_format: Annotated[
        LabelFile | None, typer.Option("--format", help="default: what the name ends in, else npy", show_default=False)
    ] = None,
    clusters: Annotated[bool, typer.Option("--clusters", help="one row per cluster instead: Parquet or CSV")] = False,
) -> None:
    """Write a run's labels in the row order of the source, as .npy, .txt, .meta, .parquet or .csv.

    Parquet and CSV have the rows' ids and items too, how sure each row is, and the other cluster that it is nearest to.
    """
    place = api.export(folder, _lasting(out), file_format and file_format.value, clusters=clusters)
    console.say(f"{'clusters' if clusters else 'labels'}: {place}")


@app.command()
def evaluate(
    labels: Annotated[str, typer.Option("--labels", help="identities, one per row; -1 (unknown) is not scored")],
    run_folder: Annotated[str | None, typer.Option("--run", help="a run's folder or URL")] = None,
    pred: Annotated[str | None, typer.Option("--pred", help="a file of predicted labels")] = None,
    labels_column: LabelsColumn = None,
    as_json: Json = False,
) -> None:
    """Score a run (--run), or a file of labels (--pred), against identities."""
    if (run_folder is None) == (pred is None):
        raise ConfigError("evaluate takes either --run RUN or --pred FILE")
    predicted = api.run_labels(run_folder) if run_folder is not None else pred
    assert predicted is not None
    scores = api.evaluate(predicted, labels, labels_column=labels_column)
    if as_json:
        print(json.dumps(scores))
        return
    table = Table("metric", right("value"))
    for name, value in scores.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    console.print(table)


@app.command()
def report(
    folder: RunFolder,
    out: Annotated[str | None, typer.Option("--out", help="file or URL to write instead of the run's own")] = None,
    items_root: ItemsRoot = None,
) -> None:
    """Render a finished run's HTML report again and say where it is; with --out the run itself is only read."""
    place, warnings = api.report(folder, None if out is None else _lasting(out), items_root=items_root or ())
    for warning in warnings:
        console.say(f"report: {warning}")
    console.say(place)


@app.command()
def synth(
    identities: Annotated[int, typer.Option("--identities", min=2, help="number of identities; about 68 rows each")],
    out: OutFolder,
    seed: Annotated[int, typer.Option("--seed", min=0, help="other seeds give other identities")] = 0,
    file_format: Annotated[StandinFormat, typer.Option("--format", help="bin (.bin and .meta) or store")] = (
        StandinFormat.bin
    ),
    threads: Threads = 0,
) -> None:
    """Make stand-in data shaped like the MS1M parts, in bounded memory."""
    written = api.make_standin(out, identities, seed, file_format.value, threads)
    for path in written:
        console.say(str(path))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, cores, memory, GPU, faiss build, Ray and disk, and what a run would use."""
    found = diagnose()
    if as_json:
        print(json.dumps(found))
        return
    table = Table("what", "found")
    for name, value in found.items():
        table.add_row(name, str(value))
    console.print(table)


def main() -> None:
    """Run the command line: what goes wrong is one line, and exit code 2; only a defect has a traceback."""
    let_every_name_be_printed()
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        if not error.format_message():  # the help was printed instead
            raise SystemExit(2) from None
        _end(2, error.format_message())
    except EngineError as error:
        _end(2, masked(str(error)))
    except BrokenPipeError:  # who read the output, head for example, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        _end(2, masked(_explain(error)))
    except (MemoryError, RecursionError) as error:
        what = "memory ran out" if isinstance(error, MemoryError) else "something is nested too deeply"
        _end(2, f"{what}{f' ({error})' if str(error) else ''}; what was committed is kept")
    if code:
        raise SystemExit(code)


_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])  # click's, or that of typer's own copy


def _end(code: int, text: str) -> NoReturn:
    print(f"asterism: error: {shown_lines(text)}", file=sys.stderr)
    raise SystemExit(code) from None


def _explain(error: OSError) -> str:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(names)}: {os_reason(error)}" if names else os_reason(error)


def _run_request(
    features: str | None,
    model: str | None,
    labels: str | None,
    labels_column: str | None,
    method: str | None,
    dim: int | None,
    column: str | None,
    items_column: str | None,
    knn_graph: str | None,
    zero_vectors: ZeroVectorPolicy | None,
    config: str | None,
    settings: list[str] | None,
    seed: int | None,
    precision_bias: float | None,
) -> api.Request:
    return api.Request(
        features=_text(features) or "",
        model=_text(model),
        labels=_text(labels),
        labels_column=labels_column,
        dim=dim,
        column=column,
        items_column=items_column,
        knn_graph=_text(knn_graph),
        settings=load_settings(
            config,
            settings,
            seed=seed,
            method=method,
            **_zero(zero_vectors),
            **{"partition.precision_bias": precision_bias},
        ),
    )


def _resources(
    memory: str | None,
    threads: int,
    workers: int,
    executor: ExecutorName | None,
    device: str,
    block_rows: int,
    config: str | None = None,
) -> Resources:
    return load_resources(
        config,
        executor=executor and executor.value,
        workers=workers or None,
        threads=threads or None,
        device=None if device == "auto" else device,
        block_rows=block_rows or None,
        memory_bytes=parse_bytes(memory) if memory is not None else None,
    )


def _zero(value: ZeroVectorPolicy | None) -> dict[str, Any]:
    return {} if value is None else {"ingest.zero_vectors": value.value}


def _lasting(out: str) -> str:
    if out.startswith("memory://"):
        raise ConfigError(f"--out {out}: what is written there ends with this process; name a folder, or a storage")
    return out


def _text(place: str | None) -> str | None:
    return None if place is None else absolute(place)


if __name__ == "__main__":
    stop_cleanly()
    main()
