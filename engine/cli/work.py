"""Commands that write something: a store, a model, a run, a comparison, stand-in data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import (
    ClusteringOptions,
    Device,
    EdgeOptions,
    Features,
    ItemsColumn,
    ItemsRoot,
    Json,
    KnnGraph,
    LabelsColumn,
    Memory,
    Out,
    OutFolder,
    Quiet,
    ResourceOptions,
    RowOptions,
    RunFolder,
    Seed,
    Set,
    SettingsOptions,
    StandinFormat,
    Threads,
    VectorOptions,
    absolute_place,
    lasting,
    run_request,
)
from engine.cli.printing import print_comparison, print_result, print_update, tell
from engine.units import human_bytes


def ingest(
    *,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="vectors in any supported format")],
    out: Out,
    vectors: VectorOptions,
    items_column: ItemsColumn = None,
    rows: RowOptions,
    settings: SettingsOptions,
    resources: ResourceOptions,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Read vectors once into a store: validated, normalised, sharded; runs then start from it."""
    from engine import api
    from engine.storage.remote import absolute

    request = api.Request(
        features=absolute(source),
        dim=vectors.dim,
        column=vectors.column,
        bits=vectors.packed,
        items_column=items_column,
        settings=settings.load(rows),
    )
    prepared = api.prepare("store", lasting(out), request, resources.load(settings.config))
    folders = api.execute(prepared, progress=not quiet)
    described, array = prepared.source, str(folders["ingest"] / "features")
    tell(
        {"store": out, "num_rows": described.num_rows, "dim": described.dim, "features": array},
        f"{described.num_rows:,} x {described.dim} vectors in {out}",
        f"features: zarr array {array}",
        as_json=as_json,
    )


def train(
    *,
    features: Features,
    labels: Annotated[str, typer.Option("--labels", help="identities, one per row; -1 is not trained on")],
    out: Out,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="for example structural, star_fc, gcn_v; default: structural or star_fc, by size"
        ),
    ] = None,
    vectors: VectorOptions,
    labels_column: LabelsColumn = None,
    knn_graph: KnnGraph = None,
    rows: RowOptions,
    settings: SettingsOptions,
    resources: ResourceOptions,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a method on labelled vectors; thresholds are chosen on held-out identities. Run again, it resumes."""
    from engine import api
    from engine.storage.cache import local_copy
    from engine.storage.manifest import bytes_below
    from engine.storage.remote import absolute

    request = api.Request(
        features=absolute(features),
        labels=absolute(labels),
        labels_column=labels_column,
        dim=vectors.dim,
        column=vectors.column,
        bits=vectors.packed,
        knn_graph=absolute_place(knn_graph),
        settings=settings.load(rows, method),
        out=absolute(lasting(out)),
    )
    folder = api.training_folder(out)
    prepared = api.prepare("training", folder, request, resources.load(settings.config))
    api.execute(prepared, progress=not quiet)
    model = json.loads(Path(local_copy(out), "model.json").read_text())
    points = {
        f"{name} (preferred)" if name == model["preferred"] else name: point
        for name, point in model["operating_points"].items()
    }
    lines = [f"  {name}: {json.dumps(point)}" for name, point in points.items()]
    after = (
        f"what it learned from, and how good it is: {out}/README.md",
        f"the training worked in {prepared.place} ({human_bytes(bytes_below(prepared.root))}), which you may delete; "
        f"with it, training with other settings does again only what they change",
    )
    told = {"folder": out, "training": str(prepared.place), **model}
    tell(told, f"{model['method']} model: {out}", *lines, *after, as_json=as_json)


def run(
    *,
    features: Features,
    out: Out,
    clustering: ClusteringOptions,
    items_root: ItemsRoot = None,
    edges: EdgeOptions,
    resources: ResourceOptions,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Cluster vectors. Running it again resumes; changed settings redo what they affect. --labels only score."""
    from engine import api

    request = run_request(features, clustering, edges, items_root)
    prepared = api.prepare("run", lasting(out), request, resources.load(edges.settings.config))
    api.execute(prepared, progress=not quiet)
    print_result(prepared.place, as_json=as_json)


def compare(
    *,
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
    vectors: VectorOptions,
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

    Methods learn, and choose their parameters, on the train identities alone; all share vectors and KNN graph. The exit
    code is 1 if a method has no scores.
    """
    from engine.commands.configuration import parse_overrides
    from engine.comparison.compare import REPORT_FILE
    from engine.comparison.compare import compare as compare_methods

    resources = ResourceOptions(memory=memory, threads=threads, device=device).load()
    rows = compare_methods(
        features,
        labels,
        out,
        methods.split(","),
        split=split,
        dim=vectors.dim,
        column=vectors.column,
        bits=vectors.packed,
        labels_column=labels_column,
        settings=parse_overrides(settings),
        seed=seed,
        resources=resources.model_dump(),
        progress=not quiet,
    )
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print_comparison(rows, Path(out).absolute() / REPORT_FILE)
    if any(row.missing for row in rows):
        raise typer.Exit(1)


def convert(
    states: Annotated[list[str], typer.Argument(metavar="STATE...", help="state dicts, as torch or safetensors files")],
    method: Annotated[
        str, typer.Option("--method", help="gcn_v, gcn_e (GCN-V's file first), l_gcn, star_fc (head last)")
    ],
    out: OutFolder,
    k: Annotated[int, typer.Option("--k", min=1, help="neighbours that it was trained with")] = 80,
    as_json: Json = False,
) -> None:
    """Make a model of the weights of another release; tensors are read, nothing is unpickled."""
    from engine.commands.conversion import convert as convert_model

    convert_model(method, states, out, k=k)
    tell({"folder": out, "method": method}, f"{method} model: {out}", as_json=as_json)


def resume(*, folder: RunFolder, resources: ResourceOptions, quiet: Quiet = False, as_json: Json = False) -> None:
    """Finish a run, store, training or update from its folder alone; what is committed is skipped."""
    from engine import api

    prepared = api.resume(folder, resources.load(), progress=not quiet)
    if isinstance(prepared, api.Update):
        print_update(folder, prepared, as_json=as_json)
    elif prepared.kind == "run":
        print_result(prepared.place, as_json=as_json)
    else:
        tell({"folder": str(prepared.place), "kind": prepared.kind, "state": "finished"}, as_json=as_json)


def synth(
    identities: Annotated[int, typer.Option("--identities", min=2, help="number of identities; about 68 rows each")],
    out: OutFolder,
    seed: Annotated[int, typer.Option("--seed", min=0, help="other seeds give other identities")] = 0,
    file_format: Annotated[StandinFormat, typer.Option("--format", help="bin (.bin and .meta) or store")] = (
        StandinFormat.bin
    ),
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Make stand-in data shaped like the MS1M parts, in bounded memory."""
    from engine import api

    written = api.make_standin(out, identities, seed, file_format.value, threads)
    tell([str(path) for path in written], *written, as_json=as_json)
