"""The one module that knows faiss: k-means over vectors. faiss is loaded only when it is called."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import DependencyMissing
from engine.installation import install_hint
from engine.tiles import single_threaded_kernels

_SEEDS = 2**31  # faiss takes an int32


def spherical_kmeans(sample_SD: np.ndarray, num_cells: int, seed: int) -> np.ndarray:
    """Train centroids by spherical k-means: unit rows (C, D) float32.

    Each centroid is followed by the nearest of those that are left, so that cells close in number lie close in space.
    One thread, so that the centroids do not depend on the machine's number of cores. Raises ``DependencyMissing``.
    """
    faiss = _load_faiss()
    kmeans = faiss.Kmeans(
        sample_SD.shape[1],
        num_cells,
        niter=10,
        spherical=True,
        seed=(seed + 1) % _SEEDS,
        min_points_per_centroid=1,
        max_points_per_centroid=1 << 30,
    )
    before = faiss.omp_get_max_threads()
    with single_threaded_kernels():
        faiss.omp_set_num_threads(1)
        try:
            kmeans.train(np.ascontiguousarray(sample_SD, dtype=np.float32))
        finally:
            faiss.omp_set_num_threads(before)
        return _chain(np.asarray(kmeans.centroids, dtype=np.float32))


def describe_faiss() -> tuple[str, int]:
    """Return what faiss was compiled with, and how many GPUs it sees. Raises ``DependencyMissing``."""
    faiss = _load_faiss()
    return str(faiss.get_compile_options()).strip(), faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0


def _load_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise DependencyMissing(
            f"knn.mode ivf, and unions of many super-vertices (gcn_d, gcn_s), need faiss: {install_hint('cpu')}"
        ) from error
    return faiss


def _chain(centroids_CD: np.ndarray) -> np.ndarray:
    left = np.ones(len(centroids_CD), dtype=bool)
    order = [0]
    for _ in range(len(centroids_CD) - 1):
        left[order[-1]] = False
        order.append(int(np.argmax(np.where(left, centroids_CD @ centroids_CD[order[-1]], -np.inf))))
    return np.ascontiguousarray(centroids_CD[order])
