"""What jobs and Python callers use: cluster, train, evaluate, and the runs behind them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.commands.configuration import load_settings
from engine.commands.execution import execute, resume
from engine.commands.exports import export
from engine.commands.preparation import Prepared, prepare
from engine.commands.projection import project
from engine.commands.reporting import REPORT_FILE, report
from engine.commands.request import Request, as_path, items_folders
from engine.commands.resources import load_resources
from engine.commands.run_folder import labels_of, open_run, run_labels
from engine.commands.standin_files import make_standin
from engine.errors import DataError
from engine.evaluation.metrics import evaluate_labels
from engine.storage.cache import local_copy
from engine.storage.formats.label_files import read_labels
from engine.storage.outputs import out_folder
from engine.storage.remote import absolute

__all__ = [
    "ClusterResult",
    "Prepared",
    "Request",
    "cluster",
    "evaluate",
    "execute",
    "export",
    "items_folders",
    "make_standin",
    "open_run",
    "prepare",
    "project",
    "report",
    "resume",
    "run_labels",
    "train",
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


def cluster(
    features: np.ndarray | str | Path,
    *,
    model: str | Path | None = None,
    method: str | None = None,
    workspace: str | Path | None = None,
    executor: Literal["local", "ray"] | None = None,
    labels: str | Path | None = None,
    knn_graph: str | Path | None = None,
    decisions: str | Path | None = None,
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
    ``labels``: identities, for the report's scores only. ``decisions``: ``decisions.parquet``, what people decided
    about pairs of rows (``engine.storage.decisions``); all of it holds. ``items_root``: folders, besides the source's,
    of the pictures that the report may show. ``config``: preset or YAML file, which may have a section ``resources``;
    ``executor`` and ``resources`` (``memory_bytes``, ``threads``, ``workers``, ``device``...) count
    before it. ``settings``: by section, ``knn={"k": 40}``, or dotted, ``**{"knn.k": 40}``. Raises ``EngineError`` of
    the fitting kind.
    """
    temporary = None if workspace is not None else tempfile.TemporaryDirectory(prefix="asterism-")
    root = f"{temporary.name}/run" if temporary else out_folder(str(workspace), option="workspace")
    request = Request(
        features=as_path(features, root),
        settings=load_settings(config, settings, method=method),
        model=_absolute(model),
        labels=_absolute(labels),
        knn_graph=_absolute(knn_graph),
        decisions=_absolute(decisions),
        dim=dim,
        items_root=items_folders([items_root] if isinstance(items_root, str | Path) else items_root),
    )
    prepared = prepare("run", root, request, load_resources(config, **{"executor": executor, **(resources or {})}))
    execute(prepared, progress=progress)
    return ClusterResult(labels_of(prepared.root, root), prepared.root, prepared.root / REPORT_FILE, temporary)


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


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else absolute(path)
