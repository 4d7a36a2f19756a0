"""What jobs and Python callers use: cluster, train, evaluate, and the runs behind them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.commands.collection import Collection, assign
from engine.commands.collection import open_run_collection as open_collection
from engine.commands.configuration import load_settings
from engine.commands.differences import difference
from engine.commands.execution import execute
from engine.commands.exports import export
from engine.commands.preparation import Prepared, prepare
from engine.commands.projection import project
from engine.commands.reporting import REPORT_FILE, report
from engine.commands.request import Given, Request, items_folders, place_of
from engine.commands.resources import load_resources
from engine.commands.resuming import resume
from engine.commands.run_folder import labels_of, open_run, run_labels, second_labels
from engine.commands.scoring import evaluate, evaluate_run
from engine.commands.standin_files import make_standin
from engine.commands.trained_model import training_folder
from engine.commands.updates import Update, update
from engine.storage.formats.packed_bits import Bits
from engine.storage.formats.postgres_query import fetch_query
from engine.storage.outputs import out_file, out_folder, write_out
from engine.storage.remote import absolute

__all__ = [
    "ClusterResult",
    "Collection",
    "Prepared",
    "Request",
    "Update",
    "assign",
    "cluster",
    "difference",
    "evaluate",
    "evaluate_run",
    "execute",
    "export",
    "fetch",
    "items_folders",
    "make_standin",
    "open_collection",
    "open_run",
    "prepare",
    "project",
    "report",
    "resume",
    "run_labels",
    "train",
    "training_folder",
    "update",
]


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

    @property
    def levels(self) -> tuple[np.ndarray, ...]:
        """``labels``, and a second answer (N,) int64 where the data hold two; one is nested in the other."""
        second = second_labels(self.run)
        return (self.labels,) if second is None else (self.labels, second)


def cluster(
    features: Any,
    *,
    model: str | Path | None = None,
    method: str | None = None,
    workspace: str | Path | None = None,
    executor: Literal["local", "ray"] | None = None,
    labels: Any = None,
    knn_graph: str | Path | None = None,
    decisions: str | Path | None = None,
    dim: int | None = None,
    bits: Bits | None = None,
    items_root: str | Path | Sequence[str | Path] = (),
    config: str | Path | None = None,
    resources: Mapping[str, Any] | None = None,
    progress: bool = False,
    **settings: Any,
) -> ClusterResult:
    """Cluster vectors by identity.

    ``features``: the path of any supported source, or data: an (N, D) array, list or tensor, a data frame of number
    columns, a column of vectors (``df["emb"]``), of numpy, torch, pandas, polars, Arrow or DLPack. Only directions
    count: similarity is the cosine. ``model``: folder that ``train`` wrote; its method is the default. ``workspace``:
    the run's folder, which keeps the data; given again, the run resumes. Any path may be an fsspec URL.
    ``labels``: identities, as a path or N numbers or names, for the report's scores only. ``decisions``:
    ``decisions.parquet``, what people decided about pairs of rows (``engine.storage.decisions``); all of it holds.
    ``items_root``: folders, besides the source's, of the pictures that the report may show. ``bits``: ``ubinary`` or
    ``binary`` if the vectors are bits packed eight to a number (``numpy.packbits``, or that less 128). ``config``:
    preset or YAML file, which may have a section ``resources``; ``executor`` and ``resources`` (``memory_bytes``,
    ``threads``, ``workers``, ``device``...) count before it. ``settings``: by section, ``knn={"k": 40}``, or dotted,
    ``**{"knn.k": 40}``. Raises ``EngineError`` of the fitting kind.
    """
    temporary = None if workspace is not None else tempfile.TemporaryDirectory(prefix="asterism-")
    root = f"{temporary.name}/run" if temporary else out_folder(str(workspace), option="workspace")
    with Given(root) as given:
        request = Request(
            features=given.vectors(features),
            settings=load_settings(config, settings, method=method),
            model=place_of(model, "model"),
            labels=None if labels is None else given.labels(labels),
            knn_graph=place_of(knn_graph, "knn_graph"),
            decisions=place_of(decisions, "decisions"),
            dim=dim,
            bits=bits,
            items_root=items_folders([items_root] if isinstance(items_root, str | Path) else items_root),
        )
        prepared = prepare("run", root, request, load_resources(config, **{"executor": executor, **(resources or {})}))
    execute(prepared, progress=progress)
    return ClusterResult(labels_of(prepared.root, root), prepared.root, prepared.root / REPORT_FILE, temporary)


def train(
    features: Any,
    labels: Any,
    out: str | Path,
    *,
    method: str | None = None,
    dim: int | None = None,
    bits: Bits | None = None,
    config: str | Path | None = None,
    resources: Mapping[str, Any] | None = None,
    progress: bool = False,
    **settings: Any,
) -> str | Path:
    """Train a method on labelled vectors and write the model's folder ``out``; run again, it resumes.

    The model is ``model.json``, ``model.safetensors`` and ``README.md``, which says what it learned from and how good
    it is. The training works in the folder ``out`` with ``-training`` after its name; once it is finished that may go.

    ``method``: any that learns, or chooses parameters; default: the configuration's, else by size and settings (see
    ``choose_trained``).
    ``labels``: (N,) identities, numbers or names, as data or a path; rows of -1 are not trained on. Thresholds are
    chosen on held-out identities and stored with the model. Other arguments as in ``cluster``.
    """
    root = training_folder(out, option="out")
    with Given(root) as given:
        request = Request(
            features=given.vectors(features),
            labels=given.labels(labels),
            settings=load_settings(config, settings, method=method),
            dim=dim,
            bits=bits,
            out=absolute(out),
        )
        prepared = prepare("training", root, request, load_resources(config, **(resources or {})))
    execute(prepared, progress=progress)
    return out


def fetch(query: str, out: str | Path, connection: str = "") -> str:
    """Write the rows that a PostgreSQL query gives to a Parquet file, a source for ``cluster``; returns its place.

    Needs the extra ``pgvector``. ``query``: such as ``SELECT id, embedding, name FROM people ORDER BY id``; a column
    ``id`` holds the rows' ids, ``name`` or another of the usual names what reports show. ``out``: a path or URL.
    ``connection``: libpq's words or URL; a password is better kept in ``~/.pgpass``. The rows are streamed. Raises
    ``DataError`` with what the server says.
    """
    place = out_file(out, option="out")
    write_out(place, lambda path: fetch_query(query, path, connection))
    return place
