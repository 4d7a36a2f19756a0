"""What the command line, jobs and Python callers use: cluster, train, evaluate, and the runs behind them."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from engine.commands import summary
from engine.commands.configuration import load_settings, read_settings
from engine.commands.projection import ComputeCluster, Projection, described_source, project_run
from engine.commands.resources import (
    Resources,
    choose_device,
    count_threads,
    count_workers,
    load_resources,
    memory_budget,
    on_cluster,
)
from engine.commands.standin import DIM, write_standin
from engine.errors import ConfigError, DataError, DiskBudgetExceeded, MemoryBudgetExceeded
from engine.evaluation.explain import as_columns
from engine.evaluation.metrics import evaluate_labels
from engine.executors.local import LocalExecutor
from engine.executors.protocol import Executor
from engine.flow.run import run_stages, store_stages
from engine.flow.training import training_stages
from engine.learning.trainable import refuse_untrainable
from engine.methods.model_card import Model
from engine.methods.registry import METHODS, read_model
from engine.runs.plan import Plan, largest_fitting, make_plan, stage_digests
from engine.runs.progress import make_display
from engine.runs.runner import Workshop, check_folder, run_plan
from engine.sections import fingerprint
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.explain import ROW_COLUMNS, read_clusters
from engine.steps.ingest import row_column
from engine.steps.labels import OutsideFile
from engine.steps.source import Source, describe_source
from engine.storage import manifest
from engine.storage.cache import local_copy
from engine.storage.context import read_npy
from engine.storage.formats.export import TABLES, choose_format, write_labels, write_table
from engine.storage.formats.label_files import read_labels
from engine.storage.outputs import out_file, out_folder, write_out
from engine.storage.paths import check_folder_of_files, explain_reading
from engine.storage.places import Place, open_place
from engine.storage.remote import absolute, is_url
from engine.tiles import usable_cores

Kind = Literal["run", "store", "training"]
SELF_TRAINED_ROWS = (2_000, 2_000_000)  # fewer are too few to learn from; of more, cosine takes an hour less
STRUCTURAL_ROWS = 200_000  # train structural up to so many: better than star_fc on all sets of up to 34,000 measured


@dataclass(frozen=True)
class Request:
    """What a run folder was asked to hold: enough to do it again from the folder alone."""

    features: str
    settings: Settings = field(default_factory=Settings)
    model: str | None = None
    labels: str | None = None
    knn_graph: str | None = None
    dim: int | None = None
    column: str | None = None
    items_column: str | None = None
    labels_column: str | None = None
    items_root: tuple[str, ...] | None = None  # folders, besides the source's, whose pictures a report may show

    def as_dict(self) -> dict[str, Any]:
        tree = {**self.__dict__, "settings": self.settings.model_dump(mode="json", exclude_unset=True)}
        return {name: value for name, value in tree.items() if value is not None}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Request:
        values = {name: value for name, value in tree.items() if name != "source"}
        folders = values.get("items_root")
        return cls(
            **{
                **values,
                "settings": read_settings(values.get("settings", {})),
                "items_root": None if folders is None else tuple(folders),
            }
        )


@dataclass(frozen=True)
class Prepared:
    """A plan with what it was made from; nothing has run yet."""

    kind: Kind
    place: Place
    request: Request
    source: Source
    model: Model | None
    plan: Plan
    resources: Resources
    device: str
    threads: int

    @property
    def root(self) -> Path:
        """The run's folder on this host."""
        return self.place.root


@dataclass(frozen=True)
class ClusterResult:
    """What ``cluster`` returns.

    ``labels``: (N,) int64 in the order of the source's rows, -1 for rows dropped. ``run``: the run's folder.
    ``report``: its HTML report. Without a ``workspace`` the folder is temporary and goes with this object.
    """

    labels: np.ndarray
    run: Path
    report: Path
    _temporary: Any = None


def cluster(
    features: np.ndarray | str | Path,
    *,
    model: str | Path | None = None,
    method: str | None = None,
    workspace: str | Path | None = None,
    executor: Literal["local", "ray"] | None = None,
    labels: str | Path | None = None,
    knn_graph: str | Path | None = None,
    dim: int | None = None,
    items_root: str | Path | Sequence[str | Path] = (),
    config: str | Path | None = None,
    resources: Mapping[str, Any] | None = None,
    progress: bool = False,
    **settings: Any,
) -> ClusterResult:
    """Cluster vectors by identity.

    ``features``: (N, D) array or the path of any supported source. ``model``: folder that ``train`` wrote; its method
    is the default. ``workspace``: the run's folder; given again, the run resumes. Any path may be an fsspec URL.
    ``labels``: identities, for the report's scores only. ``items_root``: folders, besides the source's, of the pictures
    that the report may show. ``config``: preset or YAML file, which may have a section
    ``resources``; ``executor`` and ``resources`` (``memory_bytes``, ``threads``, ``workers``, ``device``...) count
    before it. ``settings``: by section, ``knn={"k": 40}``, or dotted, ``**{"knn.k": 40}``. Raises ``EngineError`` of
    the fitting kind.
    """
    temporary = None if workspace is not None else tempfile.TemporaryDirectory(prefix="asterism-")
    root = f"{temporary.name}/run" if temporary else out_folder(str(workspace), option="workspace")
    request = Request(
        features=as_path(features, root),
        settings=load_settings(config, settings, method=method),
        model=_text(model),
        labels=_text(labels),
        knn_graph=_text(knn_graph),
        dim=dim,
        items_root=items_folders([items_root] if isinstance(items_root, str | Path) else items_root),
    )
    prepared = prepare("run", root, request, load_resources(config, **{"executor": executor, **(resources or {})}))
    execute(prepared, progress=progress)
    return ClusterResult(_labels(prepared.root, root), prepared.root, prepared.root / summary.REPORT_FILE, temporary)


def train(
    features: np.ndarray | str | Path,
    labels: np.ndarray | str | Path,
    out: str | Path,
    *,
    method: str | None = None,
    dim: int | None = None,
    config: str | Path | None = None,
    resources: Mapping[str, Any] | None = None,
    progress: bool = False,
    **settings: Any,
) -> str | Path:
    """Train a method on labelled vectors and write the model's folder ``out``; run again, it resumes.

    ``method``: any that learns, or chooses parameters; default: the configuration's, else by size and settings (see
    ``choose_trained``).
    ``labels``: (N,) identities as an array or file; rows of -1 are not trained on. Thresholds are chosen on held-out
    identities and stored with the model. Other arguments as in ``cluster``.
    """
    root = out_folder(out, option="out")
    request = Request(
        features=as_path(features, root),
        labels=as_path(labels, root, "labels"),
        settings=load_settings(config, settings, method=method),
        dim=dim,
    )
    execute(prepare("training", root, request, load_resources(config, **(resources or {}))), progress=progress)
    return out


def evaluate(
    predicted: np.ndarray | str | Path, labels: np.ndarray | str | Path, *, labels_column: str | None = None
) -> dict[str, float]:
    """Score predicted labels against identities: pairwise, BCubed, NMI, ARI (fractions) and counts.

    Either is an (N,) integer array or a file. A predicted -1 counts as a cluster of its own; rows of identity -1 are
    not scored.
    """
    truth = labels if isinstance(labels, np.ndarray) else read_labels(local_copy(labels), column=labels_column)
    found = predicted if isinstance(predicted, np.ndarray) else read_labels(local_copy(predicted))
    if len(truth) != len(found):
        raise DataError(
            f"{len(found):,} predicted labels and {len(truth):,} identities: one of each per row is expected"
        )
    return evaluate_labels(found, truth).as_dict()


def prepare(kind: Kind, root: str | Path, request: Request, resources: Resources | None = None) -> Prepared:
    """Check everything and make the plan; writes nothing. Raises what a user should see before work starts."""
    place, resources = open_place(out_folder(root)), resources or Resources()
    place.refresh()
    root = place.root
    held = _known_request(root)
    source = describe_source(
        request.features,
        dim=request.dim,
        column=request.column,
        items_column=request.items_column,
        known=held.get("source"),
    )
    settings, model, build = _resolve(kind, request, source)
    workers = count_workers(resources)
    threads = count_threads(resources)
    memory_bytes = memory_budget(resources)
    free_disk_bytes = _free_disk(root)

    def plan_at(settings: Settings) -> Plan:
        return make_plan(
            kind,
            build(settings),
            source_digest=source.digest,
            memory_bytes=memory_bytes,
            free_disk_bytes=free_disk_bytes,
            block_rows=resources.block_rows,
            workers=workers,
            threads=threads,
            memory_of_each=on_cluster(resources),
            facts={"num_rows": source.num_rows, "dim": source.dim, "method": settings.method}
            | ({"model_k": model.k} if model is not None else {}),
        )

    try:
        plan = plan_at(settings)
    except (MemoryBudgetExceeded, DiskBudgetExceeded) as error:
        k = largest_fitting(lambda k: _fits(plan_at, settings.with_k(k)), min(settings.knn.k, source.num_rows - 1))
        raise type(error)(f"{error}" + (f", or lower --set knn.k={k}" if k else "")) from None
    check_folder(place, plan, {"source": source.as_dict()})
    return Prepared(kind, place, request, source, model, plan, resources, choose_device(resources), threads)


def _known_request(root: Path) -> dict[str, Any]:
    """The request of the run that a folder holds; nothing where its manifest is missing or damaged."""
    try:
        return dict(manifest.read_run(root)["request"])
    except DataError:  # ``check_folder`` says what can be done
        return {}


def project(request: Request, cluster: ComputeCluster, rows: Sequence[int], block_rows: int = 0) -> list[Projection]:
    """Project a run on a described compute cluster: of the request's source, or of float32 vectors of these sizes.

    Without a model a learned method stands with its default network. Raises ``ConfigError`` and ``DataError``.
    """
    dim = request.dim or DIM
    if rows and (request.labels or request.knn_graph):
        raise ConfigError("--labels and --knn-graph belong to --features; a described source has none")
    sources = [described_source(count, dim) for count in rows] or [
        describe_source(request.features, dim=request.dim, column=request.column, items_column=request.items_column)
    ]
    projections = []
    for source in sources:
        settings, _, build = _resolve("run", request, source, untrained=bool(rows))
        projections.append(project_run(build, source, settings, cluster, block_rows))
    return projections


def describe_work(kind: Kind, request: Request) -> str:
    """Fingerprint of all that a training or run would do, but for what a model yet to be trained will say."""
    source = describe_source(request.features, dim=request.dim, column=request.column)
    settings, _, build = _resolve(kind, request, source, untrained=kind == "run")
    return fingerprint(stage_digests(build(settings), source.digest))


def _resolve(
    kind: Kind, request: Request, source: Source, *, untrained: bool = False
) -> tuple[Settings, Model | None, Callable[[Settings], list[Stage]]]:
    """The settings and model that a request means for a source, and what builds the stages from (other) settings."""
    labels = OutsideFile.describe(request.labels, request.labels_column)
    identities_N = None if labels is None else _check_labels(labels, source.num_rows, training=kind == "training")
    settings = request.settings
    model = _read_model(request.model, source.dim) if request.model else None
    if settings.method == "auto":
        trains = kind == "training"
        chosen = choose_trained(source, settings) if trains else choose_method(source.num_rows, settings, model)
        settings = settings.model_copy(update={"method": chosen})
    if model is not None and "k" not in settings.knn.model_fields_set:  # what was learned is of as many neighbours
        settings = settings.with_k(min(model.k, source.num_rows - 1))
    bound = model is not None and (METHODS[settings.method].trains or METHODS[model.method].clusters_itself)
    if model is not None and bound and settings.method != model.method:
        raise ConfigError(f"{request.model} is a {model.method} model, --method {settings.method} was asked for")
    if kind != "store":
        METHODS[settings.method].check(settings, training=kind == "training" or untrained)
    if untrained and model is None and METHODS[settings.method].needs_model:
        learns_metric = settings.metric.learn == "auto" and not request.knn_graph
        model = METHODS[settings.method].untrained_model(settings, source.dim, learns_metric=learns_metric)
    if kind == "training":
        if labels is None or identities_N is None:
            raise ConfigError("training needs --labels")
        share = METHODS[settings.method].holdout(settings)
        if share is not None:
            halves = METHODS[settings.method].learns_in_halves
            refuse_untrainable(labels.path, identities_N, share, settings.seed, in_halves=halves)
    knn_graph = None if kind == "store" else OutsideFile.describe(request.knn_graph)

    named = METHODS[settings.method].committee(settings) if kind != "store" else ()
    committee = [describe_source(path, dim=request.dim) for path in named]

    def build(settings: Settings) -> list[Stage]:
        if kind == "store":
            return store_stages(source, settings)
        if kind == "training":
            assert labels is not None
            return training_stages(source, settings, labels, knn_graph, committee)
        return run_stages(source, settings, model, knn_graph, labels, committee)

    return settings, model, build


def _read_model(place: str, dim: int) -> Model:
    """The model at a place, checked; its ``folder`` is the place."""
    return replace(read_model(local_copy(place), dim), folder=place)


def _check_labels(labels: OutsideFile, num_rows: int, *, training: bool) -> np.ndarray:
    """Labels (N,); refused before work starts if they say nothing: no identity, or, to train on, no pair of one."""
    identities_N = read_labels(local_copy(labels.path), num_rows, column=labels.column)
    known_M = np.sort(identities_N[identities_N >= 0])
    if not len(known_M):
        raise DataError(f"{labels.path}: every label is -1; expected identities, from 0 up, of some rows")
    if training and not (known_M[1:] == known_M[:-1]).any():
        raise DataError(
            f"{labels.path}: no two of {len(known_M):,} labelled rows are of one identity; training needs identities "
            f"of several rows"
        )
    return identities_N


def _fits(plan_at: Callable[[Settings], Plan], settings: Settings) -> bool:
    try:
        plan_at(settings)
    except (MemoryBudgetExceeded, DiskBudgetExceeded):
        return False
    return True


def execute(prepared: Prepared, *, progress: bool = True) -> dict[str, Path]:
    """Run a prepared plan; resumes what its folder already holds. Returns the folder of each stage."""
    display = make_display(progress)
    executor = make_executor(prepared)
    workshop = Workshop(prepared.place, executor, display, prepared.threads, prepared.device)
    request = {**prepared.request.as_dict(), "source": prepared.source.as_dict()}
    try:
        folders = run_plan(prepared.plan, workshop, request)
        if prepared.kind == "run":
            summary.write_report(prepared.place)
        if prepared.kind == "training":
            summary.write_model(prepared.place, folders, prepared.plan, prepared.request.settings)
    finally:
        executor.close()
        display.close()
    return folders


def resume(root: str | Path, resources: Resources | None = None, *, progress: bool = True) -> Prepared:
    """Run a folder again from what its manifest says; committed work is skipped."""
    held = manifest.read_run(open_run(root))
    prepared = prepare(held["kind"], root, Request.from_dict(held["request"]), resources)
    execute(prepared, progress=progress)
    return prepared


def open_run(root: str | Path) -> Path:
    """The folder here of a run, store or training, with what is committed at its URL if it is at one.

    Raises ``DataError`` for the folder of a comparison, and for a URL that holds none.
    """
    place = open_place(root)
    place.refresh()
    if is_url(place) and not (place.root / manifest.RUN_FILE).is_file():
        raise DataError(f"{place} holds no run: {manifest.RUN_FILE} is missing")
    summary.refuse_comparison(place.root)
    return place.root


def run_labels(root: str | Path) -> np.ndarray:
    """Labels (N,) int64 of a finished run, in source order; raises ``DataError`` where there are none yet."""
    return _labels(open_run(root), root)


def _labels(folder_here: Path, root: str | Path) -> np.ndarray:
    summary.refuse_others(folder_here)
    folder = summary.stage_folder(folder_here, "labels", "labels.npy")
    if folder is None:
        raise DataError(f"{root} has no labels yet: asterism resume {root}")
    return np.array(read_npy(folder, "labels"))


def export(root: str | Path, out: str | Path, file_format: str | None = None, *, clusters: bool = False) -> str:
    """Write a run's labels in source order to a file or URL, which is returned as an absolute one.

    ``file_format``: npy, txt or meta, labels alone; parquet or csv, with all that is known of the rows; by default what
    the name's ending says, else npy. Columns: the source's ids and items, and those of
    ``engine.evaluation.explain.RowTable``. With ``clusters`` a table of one row per cluster instead, columns as
    ``ClusterTable``. Raises ``ConfigError`` for a place that cannot be written or that the run reads, and for a name
    that ends in another format; ``DataError`` if the run is not finished.
    """
    kind = choose_format(str(out), file_format, *([TABLES] if clusters else []))
    here = open_run(root)
    place = out_file(out, never=summary.places_read(here, root))
    labels = _labels(here, root)
    if kind not in TABLES:
        write_out(place, lambda path: write_labels(path, labels, kind))  # type: ignore[arg-type]
        return place
    tables = ["clusters"] if clusters else [f"{name}.npy" for name in ROW_COLUMNS]
    explained = summary.stage_folder(here, "explain", *tables)
    if explained is None:
        raise DataError(f"{root} is not finished yet: asterism resume {root}")
    if clusters:
        write_out(place, lambda path: write_table(path, as_columns(read_clusters(explained)), kind))
        return place
    vectors = summary.vectors_folder(here, "rows")
    known = {"id": row_column(vectors, "id"), "item": row_column(vectors, "item")}
    columns = {name: column for name, column in known.items() if column is not None}
    columns |= {name: read_npy(explained, name) for name in ROW_COLUMNS}
    for name in ROW_COLUMNS:
        if columns[name].shape != labels.shape:
            raise DataError(
                f"{explained / name}.npy: expected a value for each of {len(labels):,} rows, got an array of shape "
                f"{columns[name].shape}; asterism resume {root} computes it again"
            )
    write_out(place, lambda path: write_labels(path, labels, kind, columns))  # type: ignore[arg-type]
    return place


def report(
    root: str | Path, out: str | Path | None = None, *, items_root: Sequence[str | Path] = ()
) -> tuple[str, list[str]]:
    """Render a finished run's HTML report again: into the run, or to ``out``, a file or URL, and only read the run.

    ``items_root``: folders, besides those that the run was given, of pictures to show. Returns where the report is, and
    its warnings. Raises ``ConfigError`` and ``DataError`` as ``export`` does.
    """
    folders = items_folders(items_root) or ()
    here = open_run(root)
    if out is None:
        return summary.write_report(open_place(root), folders)
    place = out_file(out, never=summary.places_read(here, root))
    if Path(place).suffix.lower() not in ("", ".html", ".htm"):
        raise ConfigError(f"--out {place}: a report is a page; expected a name that ends in .html")
    html, warnings = summary.report_page(here, folders)
    write_out(place, lambda path: manifest.write_atomic(path, lambda stream: stream.write(html)))
    return place, warnings


def items_folders(folders: Sequence[str | Path] | None) -> tuple[str, ...] | None:
    """Absolute paths of the folders of ``--items-root``; raises ``DataError`` for one that cannot be read."""
    for folder in folders or ():
        if is_url(folder):
            raise ConfigError(f"--items-root {folder}: pictures are read from folders of this machine alone")
        check_folder_of_files(Path(absolute(folder)))
    return tuple(absolute(folder) for folder in folders) if folders else None


def make_standin(
    out: str | Path, num_identities: int, seed: int, file_format: Literal["bin", "store"] = "bin", threads: int = 0
) -> list[Path]:
    """Make stand-in vectors and labels in the folder ``out``, as ``features.bin`` or a store; returns what it wrote.

    Files of these names that hold other data are refused, not replaced.
    """
    if is_url(out):
        raise ConfigError(f"--out {out}: stand-in data are made in a folder of this machine")
    out = Path(out_folder(out))
    out_file(out / "features.bin")  # refused inside a run
    features, labels = write_standin(out, num_identities, seed, threads=threads or usable_cores())
    if file_format == "bin":
        return [features, labels]
    store = out / "store"
    execute(prepare("store", store, Request(features=str(features), dim=DIM)), progress=False)
    features.unlink()
    return [store, labels]


def make_executor(prepared: Prepared) -> Executor:
    """The executor asked for; Ray is imported only here, and only if asked for."""
    resources = prepared.resources
    if resources.executor == "local":
        return LocalExecutor()
    from engine.executors.ray import RayExecutor

    workers = resources.workers if on_cluster(resources) else count_workers(resources)
    return RayExecutor(workers, prepared.threads, prepared.device, resources.gpus, resources.custom_resources)


def choose_method(num_rows: int, settings: Settings, model: Model | None) -> str:
    """What ``method = auto`` means: the model's method; without one, ``self_trained`` where it pays.

    A threshold that is set without either is one on cosines.
    """
    if model is not None:
        return model.method
    learns = SELF_TRAINED_ROWS[0] <= num_rows <= SELF_TRAINED_ROWS[1] and settings.partition.min_score is None
    return "self_trained" if learns else "cosine"


def choose_trained(source: Source, settings: Settings) -> str:
    """What training with ``method = auto`` means: whose settings were given; else ``structural`` for a smaller source.

    Settings ``train``, ``model`` and ``sampling`` are of ``star_fc`` alone, ``trees`` are not.
    """
    if settings.model_fields_set & {"train", "model", "sampling"}:
        return "star_fc"
    return "structural" if "trees" in settings.model_fields_set or source.num_rows <= STRUCTURAL_ROWS else "star_fc"


def as_path(value: np.ndarray | str | Path, beside: str | Path, name: str = "features") -> str:
    """The path itself; an array is saved beside the run first, named by its content, so that the run can be resumed."""
    if isinstance(value, (str, Path)):
        return absolute(value)
    if is_url(beside):
        raise ConfigError(f"{name}: an array cannot be kept beside {beside}; save it to a file, or at a URL, first")
    array = np.ascontiguousarray(value)
    if array.dtype.hasobject:
        raise DataError(f"{name}: an array of Python objects; pass one of numbers, of shape (N, D) for vectors")
    hasher = xxhash.xxh3_128(f"{array.shape} {array.dtype.str}".encode())
    if array.size:
        hasher.update(array.reshape(-1).view(np.uint8).data)
    beside = Path(out_folder(beside, option="out"))
    path = beside.parent / f"{beside.name}.{name}-{hasher.hexdigest()[:12]}.npy"
    if not Path(out_file(path, option=f"{name}, kept beside the run:")).exists() or not _holds(path, array):
        manifest.write_atomic(path, lambda stream: np.lib.format.write_array(stream, array, allow_pickle=False))
    return str(path)


def _holds(path: Path, array: np.ndarray) -> bool:
    """Tell whether a file is what was written of a contiguous array, byte for byte: it may have been damaged since."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    hasher = xxhash.xxh3_128(header.getvalue())
    if array.size:
        hasher.update(array.reshape(-1).view(np.uint8).data)
    with explain_reading(path):
        return manifest.file_checksum(path) == hasher.hexdigest()


def _text(path: str | Path | None) -> str | None:
    return None if path is None else absolute(path)


def _free_disk(root: Path) -> int:
    """Free bytes where the run goes, counting what it already wrote."""
    place = next(parent for parent in [root, *root.parents] if parent.exists())
    written = manifest.bytes_below(root) if (root / manifest.RUN_FILE).is_file() else 0
    return shutil.disk_usage(place).free + written
