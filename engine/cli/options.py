"""Options of the command line, and groups of options that several commands take; each is declared once.

Modules of ``cli`` import the engine inside functions, because ``--help`` and completion should not load torch.

A group is a dataclass, and a command takes it as one parameter. ``with_groups`` shows typer the fields of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from engine.errors import ConfigError
from engine.units import parse_bytes

if TYPE_CHECKING:
    from engine.commands.projection import ComputeCluster
    from engine.commands.request import Request
    from engine.commands.resources import Resources
    from engine.settings import Settings
    from engine.storage.formats.packed_bits import Bits


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


class BadRowPolicy(StrEnum):
    error = "error"
    drop = "drop"


class PackedBits(StrEnum):
    ubinary = "ubinary"
    binary = "binary"
    numbers = "numbers"


class StandinFormat(StrEnum):
    bin = "bin"
    store = "store"


# A place is a path or an fsspec URL.
Features = Annotated[str, typer.Option("--features", help="vectors: .bin, .npy, .npz, zarr, Parquet, a store, ...")]
Out = Annotated[str, typer.Option("--out", help="folder to write, or a URL: s3://bucket/folder")]
OutFolder = Annotated[str, typer.Option("--out", help="folder to write")]
OutFile = Annotated[str, typer.Option("--out", help="file to write, or a URL; its ending names the format")]
ItemsColumn = Annotated[str | None, typer.Option("--items-column", help="column of texts or image paths to show")]
ItemsRoot = Annotated[
    list[str] | None,
    typer.Option("--items-root", help="folder of pictures that the report may show, besides the source's; repeatable"),
]
LabelsColumn = Annotated[str | None, typer.Option("--labels-column", help="column that holds the labels")]
KnnGraph = Annotated[
    str | None, typer.Option("--knn-graph", help="KNN graph made elsewhere: faiss_k_80.npz, ids .npy, or a folder")
]
BadRows = Annotated[
    BadRowPolicy | None,
    typer.Option("--bad-rows", help="rows with NaN or missing values; drop: label -1; default: error"),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="one setting, for example knn.k=40; may be repeated")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="seed of everything random")]
Memory = Annotated[str | None, typer.Option("--memory", help="memory budget, for example 8GB; default 70 % of free")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="threads; 0 = all cores")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]
RunFolder = Annotated[str, typer.Argument(help="folder or URL of a run, store or training", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@dataclass(frozen=True, kw_only=True)
class VectorOptions:
    """How to read the file of vectors."""

    dim: Annotated[int | None, typer.Option("--dim", help="dimensions of a .bin file")] = None
    column: Annotated[str | None, typer.Option("--column", help="column or array that holds the vectors")] = None
    bits: Annotated[
        PackedBits | None,
        typer.Option(
            "--bits",
            help="bits packed eight to a number, unpacked to 1 and -1: ubinary (unsigned bytes) or binary (bytes less "
            "128); numbers: none are packed",
        ),
    ] = None

    @property
    def packed(self) -> Bits | None:
        return self.bits.value if self.bits else None


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What becomes of rows without a direction."""

    zero_vectors: Annotated[
        ZeroVectorPolicy | None, typer.Option("--zero-vectors", help="rows of norm 0; default: error")
    ] = None
    bad_rows: BadRows = None


@dataclass(frozen=True, kw_only=True)
class SettingsOptions:
    """The settings: a file or preset, single settings that override it, and the seed."""

    config: Annotated[
        str | None, typer.Option("--config", help="YAML file or preset, for example star_fc/original")
    ] = None
    settings: Set = None
    seed: Seed = None

    def load(self, rows: RowOptions, method: str | None = None, precision_bias: float | None = None) -> Settings:
        """Load the settings. The arguments override ``--set``, and ``--set`` overrides the file."""
        from engine.commands.configuration import load_settings

        named = {
            "ingest.zero_vectors": rows.zero_vectors and rows.zero_vectors.value,
            "ingest.bad_rows": rows.bad_rows and rows.bad_rows.value,
            "partition.precision_bias": precision_bias,
        }
        return load_settings(self.config, self.settings, seed=self.seed, method=method, **named)


@dataclass(frozen=True, kw_only=True)
class ResourceOptions:
    """Where a run works and how much it may use; none of this changes its result."""

    memory: Memory = None
    threads: Threads = 0
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, help="ray: number of actors; 0 = one per two cores, on a cluster all it holds"
        ),
    ] = 0
    executor: Annotated[
        ExecutorName | None,
        typer.Option("--executor", help="local: this process; ray: Ray actors; default: the config's, else local"),
    ] = None
    device: Device = "auto"
    block_rows: Annotated[int, typer.Option("--block-rows", min=0, help="rows per task; 0 = chosen by the plan")] = 0

    def load(self, config: str | None = None) -> Resources:
        """Load the resources. The options override the section ``resources`` of the file ``config``."""
        from engine.commands.resources import load_resources

        return load_resources(
            config,
            executor=self.executor and self.executor.value,
            workers=self.workers or None,
            threads=self.threads or None,
            device=None if self.device == "auto" else self.device,
            block_rows=self.block_rows or None,
            memory_bytes=parse_bytes(self.memory) if self.memory is not None else None,
        )


@dataclass(frozen=True, kw_only=True)
class ClusteringOptions:
    """The method, and the inputs of a run besides the vectors."""

    model: Annotated[str | None, typer.Option("--model", help="folder written by asterism train")] = None
    labels: Annotated[
        str | None, typer.Option("--labels", help="identities, one per row; -1 (unknown) is not scored")
    ] = None
    labels_column: LabelsColumn = None
    method: Annotated[
        str | None,
        typer.Option("--method", help="for example structural, gcn_v, kmeans; default: the model's, else by size"),
    ] = None
    vectors: VectorOptions
    items_column: ItemsColumn = None
    decisions: Annotated[
        str | None,
        typer.Option("--decisions", help="decisions.parquet: pairs of rows that people called same or different"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EdgeOptions:
    """The KNN graph, and the settings of a run."""

    knn_graph: KnnGraph = None
    rows: RowOptions
    precision_bias: Annotated[
        float | None,
        typer.Option(
            "--precision-bias",
            min=-20,
            max=20,
            help="doublings of the odds asked of every edge: above 0 fewer wrong merges, below 0 fewer splits",
            show_default=False,
        ),
    ] = None
    settings: SettingsOptions


@dataclass(frozen=True, kw_only=True)
class HostOptions:
    """A compute cluster for which ``plan`` projects a run."""

    hosts: Annotated[int, typer.Option("--hosts", min=0, help="project for a compute cluster of so many hosts")] = 0
    gpus_per_host: Annotated[int, typer.Option("--gpus-per-host", min=0, help="GPUs of each, as an H100")] = 0
    cores_per_host: Annotated[int, typer.Option("--cores-per-host", min=1, help="cores of each")] = 64
    memory_per_host: Annotated[str, typer.Option("--memory-per-host", help="memory a run may use of each")] = "512GB"
    disk_per_host: Annotated[
        str | None, typer.Option("--disk-per-host", help="disk a run may use of each; default: any")
    ] = None
    rows: Annotated[
        list[float] | None, typer.Option("--rows", help="with --hosts: sizes instead of --features; may be repeated")
    ] = None

    def compute_cluster(self) -> ComputeCluster:
        """Return the compute cluster that the options describe."""
        from engine.commands.projection import ComputeCluster

        disk = parse_bytes(self.disk_per_host, "--disk-per-host") if self.disk_per_host else 0
        memory = parse_bytes(self.memory_per_host, "--memory-per-host")
        return ComputeCluster(self.hosts, self.gpus_per_host, self.cores_per_host, memory, disk)


def run_request(
    features: str | None, clustering: ClusteringOptions, edges: EdgeOptions, items_root: list[str] | None = None
) -> Request:
    """Return the request of a run, for ``run`` and ``plan``."""
    from engine.commands.request import Request, items_folders

    return Request(
        features=absolute_place(features) or "",
        model=absolute_place(clustering.model),
        labels=absolute_place(clustering.labels),
        labels_column=clustering.labels_column,
        dim=clustering.vectors.dim,
        column=clustering.vectors.column,
        bits=clustering.vectors.packed,
        items_column=clustering.items_column,
        knn_graph=absolute_place(edges.knn_graph),
        decisions=absolute_place(clustering.decisions),
        settings=edges.settings.load(edges.rows, clustering.method, edges.precision_bias),
        items_root=items_folders(items_root),
    )


def lasting(out: str) -> str:
    """Return ``out``. Raises ``ConfigError`` for ``memory://``, because files there end with this process."""
    if out.startswith("memory://"):
        raise ConfigError(f"--out {out}: what is written there ends with this process; name a folder, or a storage")
    return out


def absolute_place(place: str | None) -> str | None:
    """Return a given place as an absolute path or URL, else ``None``."""
    from engine.storage.remote import absolute

    return None if place is None else absolute(place)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return ``command`` with the fields of its groups as parameters, because typer does not know groups."""

    @wraps(command)
    def called(**values: Any) -> None:
        _call(command, values)

    parameters = list(_parameters(command))
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    called.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return called


def _parameters(of: Callable[..., object]) -> Iterator[Parameter]:
    """Yield the parameters of a command or group, and in the place of a group its fields."""
    hints = get_type_hints(of, include_extras=True)
    for name, parameter in signature(of).parameters.items():
        if is_dataclass(hints[name]):
            yield from _parameters(hints[name])
        else:
            yield parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)


def _call(of: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Call a command, or make a group, with those of the values that it takes."""
    hints = get_type_hints(of)
    return of(
        **{
            name: _call(hints[name], values) if is_dataclass(hints[name]) else values[name]
            for name in signature(of).parameters
        }
    )
