"""Methods of other packages that need no labels, each with its own defaults, as one function.

Each takes unit vectors (N, D) in float32 and returns labels (N,); -1 is what the method calls noise. Only seeds are
set, so that a row can be measured again; all else is a package's default. igraph, leidenalg and infomap are under GPL
or AGPL: an outside yardstick for an environment of its own, never a dependency.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.pool import Pool
from typing import Any

import numba
import numpy as np
from label_free_sets import noise
from run_graph import Edges, read_edges, vertex_identities
from threadpoolctl import threadpool_limits

from engine import api

NEIGHBORS = 80
LINKAGE_DISTANCE = 0.5  # scikit-learn has no default: half way from equal to orthogonal
COMMUNITY_THRESHOLD, COMMUNITY_ROWS = 0.75, 10  # the defaults of sentence-transformers
MOST_ROWS = 25_000  # beyond, methods that compare all pairs take more than five minutes


def hdbscan(vectors_ND: np.ndarray) -> np.ndarray:
    """scikit-learn's HDBSCAN."""
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(copy=True).fit_predict(vectors_ND)


def fast_hdbscan_leaf(vectors_ND: np.ndarray) -> np.ndarray:
    """fast_hdbscan with the leaves of the tree as clusters: the finer of its two rules."""
    from fast_hdbscan import HDBSCAN

    return HDBSCAN(cluster_selection_method="leaf").fit_predict(vectors_ND)


def plscan(vectors_ND: np.ndarray) -> np.ndarray:
    """fast_hdbscan's PLSCAN: HDBSCAN that chooses the least size of a cluster by persistence."""
    from fast_hdbscan import PLSCAN

    return PLSCAN().fit_predict(vectors_ND)


def evoc(vectors_ND: np.ndarray) -> np.ndarray:
    """EVoC, made for embeddings: the layer that it returns itself."""
    from evoc import EVoC

    return EVoC(random_state=0).fit_predict(vectors_ND)


def average_linkage(vectors_ND: np.ndarray) -> np.ndarray:
    """Average linkage of cosine distances, cut at ``LINKAGE_DISTANCE``."""
    from sklearn.cluster import AgglomerativeClustering

    method = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=LINKAGE_DISTANCE
    )
    return method.fit_predict(vectors_ND)


def community_detection(vectors_ND: np.ndarray) -> np.ndarray:
    """Fast community detection of sentence-transformers (``util.community_detection``, Reimers and Gurevych).

    Rows are visited from the one with most rows within the threshold. One that no community has yet, and with enough
    such rows that none has, makes a community of them.
    """
    counts_N = np.concatenate(
        [(vectors_ND[start : start + 1024] @ vectors_ND.T >= COMMUNITY_THRESHOLD).sum(1)
         for start in range(0, len(vectors_ND), 1024)]
    )  # fmt: skip
    labels_N = np.full(len(vectors_ND), -1)
    for row in np.argsort(-counts_N, kind="stable")[: np.count_nonzero(counts_N >= COMMUNITY_ROWS)]:
        if labels_N[row] < 0:
            found = (vectors_ND @ vectors_ND[row] >= COMMUNITY_THRESHOLD) & (labels_N < 0)
            if np.count_nonzero(found) >= COMMUNITY_ROWS:
                labels_N[found] = row
    return labels_N


def infomap(vectors_ND: np.ndarray) -> np.ndarray:
    """Infomap in two levels on the cosine graph; a row without an edge is noise."""
    from infomap import Infomap

    search = Infomap("--two-level --silent")
    search.add_links(np.column_stack(cosine_graph(vectors_ND)))
    search.run()
    labels_N = np.full(len(vectors_ND), -1)
    for row, module in search.get_modules().items():
        labels_N[row] = module
    return labels_N


def leiden(vectors_ND: np.ndarray) -> np.ndarray:
    """Leiden by modularity on the cosine graph."""
    import igraph
    import leidenalg

    sources, targets, cosines = cosine_graph(vectors_ND)
    graph = igraph.Graph(len(vectors_ND), np.column_stack([sources, targets]))
    found = leidenalg.find_partition(graph, leidenalg.ModularityVertexPartition, weights=cosines.tolist(), seed=0)
    return np.array(found.membership)


def cosine_graph(vectors_ND: np.ndarray) -> Edges:
    """Ends, as rows, and cosines above 0 of the edges of the engine's exact graph of 80 neighbours."""
    settings: dict[str, Any] = {"method": "cosine", "knn": {"mode": "exact", "k": NEIGHBORS}}
    result = api.cluster(vectors_ND, resources={"threads": numba.get_num_threads()}, **settings)
    sources, targets, cosines = read_edges(result.run)
    rows_V = vertex_identities(result.run, np.arange(len(vectors_ND)))
    kept = cosines > 0
    return rows_V[sources[kept]], rows_V[targets[kept]], cosines[kept].astype(np.float64)


@dataclass(frozen=True)
class OutsideMethod:
    """``title`` in the table, ``packages`` whose versions a record names, the most rows it is given, and the call."""

    title: str
    packages: tuple[str, ...]
    cluster: Callable[[np.ndarray], np.ndarray]
    most_rows: int = MOST_ROWS

    def absent(self) -> list[str]:
        """Packages of it that are not installed."""
        return [package for package in self.packages if not _version(package)]

    def refusal(self, rows: int) -> str | None:
        """Say why a set of so many rows is left out, if it is."""
        return f"{rows:,} rows, and at most {self.most_rows:,} are given to it" if rows > self.most_rows else None

    def versions(self) -> dict[str, str | None]:
        """Versions of the packages it comes from."""
        return {package: _version(package) for package in self.packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


METHODS = {
    "hdbscan": OutsideMethod("HDBSCAN", ("scikit-learn",), hdbscan),
    "fast_hdbscan_leaf": OutsideMethod("HDBSCAN, leaves", ("fast-hdbscan", "pynndescent"), fast_hdbscan_leaf),
    "plscan": OutsideMethod("PLSCAN", ("fast-hdbscan", "pynndescent"), plscan),
    "evoc": OutsideMethod("EVoC", ("evoc",), evoc),
    "average_linkage": OutsideMethod("average linkage", ("scikit-learn",), average_linkage, 12_000),
    "community_detection": OutsideMethod("community detection", (), community_detection),
    "infomap": OutsideMethod("Infomap", ("infomap",), infomap),
    "leiden": OutsideMethod("Leiden", ("leidenalg", "igraph"), leiden),
}


class Worker:
    """A process that runs one method at a time and is ended where one takes too long."""

    def __init__(self, threads: int, limit_seconds: float) -> None:
        self._threads, self._limit = threads, limit_seconds
        self._pool: Pool | None = None
        self._warm: set[str] = set()

    def run(self, name: str, vectors_ND: np.ndarray) -> tuple[np.ndarray, float] | str:
        """Return labels and seconds, or why there are none.

        A method first clusters a little noise, so that its seconds have no compilation in them.
        """
        if name not in self._warm:
            with suppress(Exception):
                self._call(name, noise(300, 32, 0), None)
            self._warm.add(name)
        try:
            return self._call(name, vectors_ND, self._limit)
        except multiprocessing.TimeoutError:
            self.close()
            return f"took more than {self._limit:.0f} s"
        except Exception as error:  # whatever another package raises on data it was not made for
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._pool is not None:
            self._pool.terminate()
        self._pool, self._warm = None, set()

    def _call(self, name: str, vectors_ND: np.ndarray, limit: float | None) -> tuple[np.ndarray, float]:
        if self._pool is None:
            self._pool = multiprocessing.get_context("spawn").Pool(1, _start, (self._threads,))
        return self._pool.apply_async(_timed, (name, vectors_ND)).get(limit)


def _start(threads: int) -> None:
    if threads:
        numba.set_num_threads(threads)
        threadpool_limits(threads)


def _timed(name: str, vectors_ND: np.ndarray) -> tuple[np.ndarray, float]:
    np.random.seed(0)  # pynndescent, and so fast_hdbscan, draws from the global stream
    start = time.perf_counter()
    labels_N = np.asarray(METHODS[name].cluster(vectors_ND))
    return labels_N, time.perf_counter() - start
