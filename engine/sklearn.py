"""The engine as a scikit-learn estimator: ``IdentityClusterer``. Needs the extra ``[sklearn]``.

N rows, M new rows, D dimensions, C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.api import Collection, cluster, open_collection
from engine.commands.run_folder import stage_folder
from engine.errors import ConfigError, DependencyMissing
from engine.evaluation.metrics import f_from_counts, pair_counts
from engine.installation import install_hint
from engine.storage.context import read_npy
from engine.tiles import tile_bounds

try:
    from sklearn.base import BaseEstimator, ClusterMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise DependencyMissing(f"engine.sklearn needs scikit-learn 1.6 or later: {install_hint('sklearn')}") from error

__all__ = ["NOISE", "IdentityClusterer", "pairwise_f"]

NOISE = -1  # the label of rows in no cluster
_TILE_ROWS = 1_024
_TYPES = [np.float32, np.float64, np.float16]


class IdentityClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Cluster vectors by identity, as ``engine.cluster`` does.

    Parameters
    ----------
    model : str or Path, optional
        Folder that ``asterism train`` or ``engine.train`` wrote. Without one no labels are needed.
    method : str, optional
        How edges get their scores; default: the model's method, else one chosen by the number of rows.
    k : int, optional
        Neighbours of each row in the graph; default 80, or as many as there are rows.
    partition : str, default "auto"
        How scored edges become clusters.
    min_score : float, optional
        Least score of an edge; default: the model's, or chosen from the graph.
    precision_bias : float, default 0
        Doublings of the odds that are asked of every edge: above 0 fewer wrong merges, below 0 fewer splits.
    min_cluster_size : int, default 1
        Clusters of fewer rows become noise, label -1. The default keeps rows that are alone as clusters of one row,
        because most scores of scikit-learn take all rows of label -1 for one cluster.
    decisions : str or Path, optional
        ``decisions.parquet``: pairs of rows of ``X`` that people called the same or different; all of them hold. Rows
        are named by their number.
    workspace : str or Path, optional
        Folder that keeps the run of ``fit``, for data of one fit. ``predict`` then asks that run, as ``engine.open`` of
        it would: a row that belongs to none of its clusters is noise. Without one ``predict`` names the nearest row's.
    seed : int, default 0
        Seed of everything random. Equal seeds give equal labels.
    settings : mapping, optional
        Further settings by dotted name, for example ``{"knn.mode": "exact"}``.
    threads : int, optional
        Threads; default: all cores. They change no label.
    memory_bytes : int or str, optional
        Memory budget, for example ``"8GB"``; default: 70 % of what is free.

    Attributes
    ----------
    labels_ : (N,) int64
        Cluster of each row, from 0 by first row; -1 for noise. A row of zeros is a cluster of its own.
    probabilities_ : (N,) float32
        How much closer the row is to its cluster than to the nearest other, from 0 to 1; 0 for noise.
    medoids_ : (C,) int64
        The row of each cluster that is nearest to the cluster's mean direction: the one to keep of duplicates.
    run_ : Path
        The run's folder, if ``workspace`` is given.
    n_features_in_ : int
        Number of columns of ``X``; ``feature_names_in_`` has their names if they are texts.
    """

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        method: str | None = None,
        k: int | None = None,
        partition: str = "auto",
        min_score: float | None = None,
        precision_bias: float = 0.0,
        min_cluster_size: int = 1,
        decisions: str | Path | None = None,
        workspace: str | Path | None = None,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        threads: int | None = None,
        memory_bytes: int | str | None = None,
    ) -> None:
        self.model = model
        self.method = method
        self.k = k
        self.partition = partition
        self.min_score = min_score
        self.precision_bias = precision_bias
        self.min_cluster_size = min_cluster_size
        self.decisions = decisions
        self.workspace = workspace
        self.seed = seed
        self.settings = settings
        self.threads = threads
        self.memory_bytes = memory_bytes

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Cluster the rows of ``X`` (N, D); ``y`` is ignored. Raises ``EngineError`` of the fitting kind."""
        if self.min_cluster_size < 1:
            raise ConfigError(f"min_cluster_size: expected 1 or more, got {self.min_cluster_size}")
        rows_ND = validate_data(self, X, dtype=_TYPES, order="C", ensure_min_samples=2)
        found = cluster(
            rows_ND,
            model=self.model,
            method=self.method,
            decisions=self.decisions,
            workspace=self.workspace,
            resources={"threads": self.threads, "memory_bytes": self.memory_bytes},
            **self._settings(),
        )
        explained = stage_folder(found.run, "explain", "confidence.npy")
        assert explained is not None
        confidence_N = np.array(read_npy(explained, "confidence"))
        kept_N = np.bincount(found.labels)[found.labels] >= self.min_cluster_size
        self.labels_ = np.full(len(rows_ND), NOISE, np.int64)
        self.labels_[kept_N] = np.unique(found.labels[kept_N], return_inverse=True)[1]
        self._label_of_cluster = np.full(int(found.labels.max(initial=-1)) + 1, NOISE, np.int64)
        self._label_of_cluster[found.labels[kept_N]] = self.labels_[kept_N]
        self._collection: Collection | None = None
        if self.workspace is not None:
            self.run_ = found.run
            with suppress(ConfigError):  # its method has no scores to ask for: the nearest row is named
                self._collection = open_collection(found.run, threads=self.threads or 0)
        self.probabilities_ = np.where(kept_N, confidence_N, np.float32(0))
        self._rows_ND = _unit(rows_ND)
        self.medoids_ = _medoids(self._rows_ND, self.labels_)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Give each row of ``X`` (M, D) the label (M,) of the fitted row of greatest cosine; ties go to the lower row.

        Every fitted row is compared, so rows of the fit get their own label back. With a ``workspace`` it is the label
        of the cluster that the row would join, noise if it would join none.
        """
        check_is_fitted(self)
        given_MD = validate_data(self, X, dtype=_TYPES, reset=False)
        if self._collection is not None:
            clusters_M = self._collection.assign(given_MD).clusters
            known_M = (clusters_M >= 0) & (clusters_M < len(self._label_of_cluster))  # others came by later updates
            return np.where(known_M, self._label_of_cluster[np.where(known_M, clusters_M, 0)], NOISE)
        rows_MD = _unit(given_MD)
        nearest = [np.empty(0, np.int64)]
        for start, stop in tile_bounds(0, len(rows_MD), _TILE_ROWS):
            tile_TD = np.zeros((_TILE_ROWS, rows_MD.shape[1]), np.float32)  # one shape, so that products round alike
            tile_TD[: stop - start] = rows_MD[start:stop]
            nearest.append((tile_TD @ self._rows_ND.T)[: stop - start].argmax(axis=1))
        return self.labels_[np.concatenate(nearest)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened run out, because it maps files; ``__setstate__`` opens it again."""
        state = dict(super().__getstate__())
        if "_collection" in state:
            state["_collection"] = state["_collection"] is not None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_collection" in state:
            self._collection = open_collection(self.run_, threads=self.threads or 0) if state["_collection"] else None

    def _settings(self) -> dict[str, Any]:
        named = {
            "knn.k": self.k,
            "partition.min_score": self.min_score,
            "partition.method": None if self.partition == "auto" else self.partition,
            "partition.precision_bias": self.precision_bias or None,
        }
        given = {name: value for name, value in named.items() if value is not None}
        return {"ingest.zero_vectors": "singleton", "seed": self.seed, **given, **(self.settings or {})}


def pairwise_f(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Score labels against identities by the F of pairs, for ``sklearn.metrics.make_scorer``.

    A label of -1 counts as a cluster of its own; rows of identity -1 are not scored.
    """
    return f_from_counts(pair_counts(np.asarray(y_pred, np.int64), np.asarray(y_true, np.int64)))


def _unit(rows_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Scale rows to length one; a row of zeros stays one."""
    rows_ND = np.asarray(rows_ND, np.float64)
    scales_N = np.abs(rows_ND).max(axis=1, keepdims=True)
    rows_ND = rows_ND / np.where(scales_N > 0, scales_N, 1)
    lengths_N = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return (rows_ND / np.where(lengths_N > 0, lengths_N, 1)).astype(np.float32)


def _medoids(rows_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the row of each cluster nearest to its mean direction; ties go to the lower row."""
    members = np.flatnonzero(labels_N >= 0)
    labels = labels_N[members]
    means_CD = np.zeros((int(labels.max(initial=-1)) + 1, rows_ND.shape[1]), np.float32)
    np.add.at(means_CD, labels, rows_ND[members])
    order = np.lexsort((members, -(rows_ND[members] * means_CD[labels]).sum(axis=1), labels))
    return members[order[np.unique(labels[order], return_index=True)[1]]]
