"""Options and arguments that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class ExecutorName(StrEnum):
    local = "local"
    ray = "ray"


class LabelFile(StrEnum):
    npy = "npy"
    txt = "txt"
    meta = "meta"
    parquet = "parquet"
    csv = "csv"


class ZeroVectorPolicy(StrEnum):
    error = "error"
    drop = "drop"
    singleton = "singleton"


class StandinFormat(StrEnum):
    bin = "bin"
    store = "store"


# Places are paths or fsspec URLs.
Features = Annotated[str, typer.Option("--features", help="vectors: .bin, .npy, .npz, zarr, Parquet, a store, ...")]
Out = Annotated[str, typer.Option("--out", help="folder to write, or a URL: s3://bucket/folder")]
OutFolder = Annotated[str, typer.Option("--out", help="folder to write")]
OutFile = Annotated[str, typer.Option("--out", help="file to write, or a URL; its ending names the format")]
Dim = Annotated[int | None, typer.Option("--dim", help="dimensions of a .bin file")]
Column = Annotated[str | None, typer.Option("--column", help="column or array that holds the vectors")]
ItemsColumn = Annotated[str | None, typer.Option("--items-column", help="column of texts or image paths to show")]
Labels = Annotated[str | None, typer.Option("--labels", help="identities, one per row; -1 (unknown) is not scored")]
LabelsColumn = Annotated[str | None, typer.Option("--labels-column", help="column that holds the labels")]
ModelOption = Annotated[str | None, typer.Option("--model", help="folder written by asterism train")]
KnnGraph = Annotated[
    str | None, typer.Option("--knn-graph", help="KNN graph made elsewhere: faiss_k_80.npz, ids .npy, or a folder")
]
Method = Annotated[
    str | None,
    typer.Option("--method", help="for example structural, gcn_v, kmeans; default: the model's, else by size"),
]
Config = Annotated[str | None, typer.Option("--config", help="YAML file or preset, for example star_fc/original")]
Set = Annotated[list[str] | None, typer.Option("--set", help="one setting, for example knn.k=40; may be repeated")]
Memory = Annotated[str | None, typer.Option("--memory", help="memory budget, for example 8GB; default 70 % of free")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="threads; 0 = all cores")]
Workers = Annotated[
    int,
    typer.Option("--workers", min=0, help="ray: number of actors; 0 = one per two cores, on a cluster all it holds"),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="seed of everything random")]
ExecutorOption = Annotated[
    ExecutorName | None,
    typer.Option("--executor", help="local: this process; ray: Ray actors; default: the config's, else local"),
]
PrecisionBias = Annotated[
    float | None,
    typer.Option(
        "--precision-bias",
        min=-20,
        max=20,
        help="doublings of the odds asked of every edge: above 0 fewer wrong merges, below 0 fewer splits",
        show_default=False,
    ),
]
ZeroVectors = Annotated[ZeroVectorPolicy | None, typer.Option("--zero-vectors", help="rows of norm 0; default: error")]
BlockRows = Annotated[int, typer.Option("--block-rows", min=0, help="rows per task; 0 = chosen by the plan")]
ItemsRoot = Annotated[
    list[str] | None,
    typer.Option("--items-root", help="folder of pictures that the report may show, besides the source's; repeatable"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]
RunFolder = Annotated[str, typer.Argument(help="folder or URL of a run, store or training", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
