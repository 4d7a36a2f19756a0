"""Methods that learn nothing, their parameters chosen by pairwise F on given identities.

All but average linkage and HDBSCAN, which compare all pairs of vectors, work on a run's own cosine KNN graph.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.spatial.distance import pdist
from sklearn.cluster import DBSCAN, HDBSCAN

from engine import summary
from engine.clustering.forest import strongest_forest
from engine.clustering.propagation import propagate
from engine.clustering.union_find import component_roots
from engine.evaluation.metrics import f_from_counts, pair_counts
from engine.evaluation.sweep import threshold_sweep
from engine.stages.edges import iterate_edges
from engine.storage.context import read_npy

THRESHOLDS = np.arange(0.95, 0.19, -0.01)
SIZE_QUANTILES = (0.5, 0.75, 0.9, 0.99, 1.0)
STEP = 0.05
ALL_PAIRS_ROWS = 30_000  # of which a table of distances takes 3.6 GB and a spanning tree minutes

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]
Point = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """Vectors (N, D) of unit length, their identities (N,), and the cosine KNN graph's edges."""

    vectors_ND: np.ndarray
    identities_N: np.ndarray
    edges: Edges

    @classmethod
    def read(cls, run: Path, vectors_ND: np.ndarray, identities_N: np.ndarray) -> Sample:
        """From a cosine run's folder and its source, given in source order; the sample is in the run's."""
        lengths = np.linalg.norm(vectors_ND.astype(np.float32), axis=1, keepdims=True)
        unit_ND = vectors_ND.astype(np.float32) / np.maximum(lengths, 1e-9)
        return cls(vertex_identities(run, unit_ND), vertex_identities(run, identities_N), read_edges(run))

    def __len__(self) -> int:
        return len(self.identities_N)


def vertex_identities(run: Path, identities: np.ndarray) -> np.ndarray:
    """Identities, or anything else by source row, in the run's vertex order."""
    order = summary.stage_folder(run, "order")
    return identities if order is None else identities[read_npy(order, "row_of_vertex")]


def read_edges(run: Path, value: str = "similarity") -> Edges:
    """Sources, targets and cosines, or scores, of a run's graph."""
    folder = summary.stage_folder(run, "score")
    assert folder is not None
    parts = list(iterate_edges(folder, ("source", "target", value)))
    sources, targets, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sources, targets, values


def size_caps(identities_N: np.ndarray) -> list[int]:
    """Size caps to choose from: quantiles of the identities' sizes, and half as much again."""
    sizes = np.unique(identities_N, return_counts=True)[1]
    return sorted({int(np.ceil(np.quantile(sizes, q) * factor)) for q in SIZE_QUANTILES for factor in (1.0, 1.5)} - {1})


def choose_cosine(run: Path, identities: np.ndarray) -> tuple[float, tuple[float, int]]:
    """Choose components' threshold, and CDP's threshold and size cap, by pairwise F on a run's cosine graph."""
    edges = read_edges(run)
    n = len(identities)
    rows = threshold_sweep(n, *edges, THRESHOLDS, identities)
    threshold = max(rows, key=lambda row: row.pairwise_f or 0).threshold
    forest = strongest_forest(*edges)
    best = (-1.0, 0.0, 0)
    for cap in size_caps(identities):
        for least in THRESHOLDS:
            copies = (part.copy() for part in forest)
            roots = propagate(n, *copies, min_score=float(least), max_size=cap, step=STEP)
            best = max(best, (f_from_counts(pair_counts(roots, identities)), float(least), cap))
    return threshold, best[1:]


Search = Callable[[Sample, list[Point]], Iterator[np.ndarray]]


def components(sample: Sample, points: list[Point]) -> Iterator[np.ndarray]:
    """Connected components of the edges of a least cosine."""
    sources, targets, similarities = sample.edges
    for point in points:
        kept = similarities >= np.float32(point["min_score"])
        yield component_roots(len(sample), sources[kept], targets[kept])


def cdp(sample: Sample, points: list[Point]) -> Iterator[np.ndarray]:
    """CDP's size-capped propagation over cosines (Zhan et al., ECCV 2018)."""
    forest = strongest_forest(*sample.edges)
    for point in points:
        yield propagate(len(sample), *(part.copy() for part in forest), **point, step=STEP)


def dbscan(sample: Sample, points: list[Point]) -> Iterator[np.ndarray]:
    """scikit-learn's DBSCAN on the KNN graph's cosine distances; noise stays alone."""
    sources, targets, similarities = sample.edges
    ends, others = np.concatenate([sources, targets]), np.concatenate([targets, sources])
    distances = np.tile(np.maximum(1 - similarities.astype(np.float64), 1e-9), 2)
    graph = coo_array((distances, (ends, others)), shape=(len(sample),) * 2).tocsr()
    for point in points:
        yield _noise_alone(DBSCAN(metric="precomputed", **point).fit(graph).labels_)


def hdbscan(sample: Sample, points: list[Point]) -> Iterator[np.ndarray]:
    """scikit-learn's HDBSCAN of the unit vectors; noise stays alone."""
    for point in points:
        found = HDBSCAN(copy=True, n_jobs=-1, **point).fit(sample.vectors_ND.astype(np.float64))
        yield _noise_alone(found.labels_)


def average_linkage(sample: Sample, points: list[Point]) -> Iterator[np.ndarray]:
    """scipy's average linkage of cosine distances, cut at a distance."""
    tree = linkage(pdist(sample.vectors_ND, "cosine"), "average")
    for point in points:
        yield fcluster(tree, point["distance"], "distance")


def outside(python: str, kind: str) -> Search:
    """Leiden (igraph) or Infomap in the interpreter of another environment, on cosines of at least ``floor``."""

    def search(sample: Sample, points: list[Point]) -> Iterator[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "edges.npz", *sample.edges)
            for point in points:
                found = Path(folder) / "found.npy"
                given = json.dumps({"num_vertices": len(sample), **point})
                subprocess.run([python, "-c", OUTSIDE[kind], f"{folder}/edges.npz", found, given], check=True)
                yield np.load(found, allow_pickle=False)

    return search


_READ = """
import json, sys
import numpy as np
given = json.loads(sys.argv[3])
table = np.load(sys.argv[1], allow_pickle=False)
sources, targets, cosines = (table[f"arr_{number}"] for number in range(3))
kept = cosines >= given["floor"]
sources, targets, cosines = sources[kept], targets[kept], cosines[kept].astype(float)
"""
OUTSIDE = {
    "Leiden": _READ
    + """
import igraph, random
random.seed(given.get("seed", 0))
graph = igraph.Graph(given["num_vertices"], np.column_stack([sources, targets]))
found = graph.community_leiden("CPM", weights=cosines, resolution=given["resolution"], n_iterations=10)
np.save(sys.argv[2], np.array(found.membership, np.int64))
""",
    "Infomap": _READ
    + """
import infomap
search = infomap.Infomap(f"--two-level --silent --num-trials 1 --seed {given.get('seed', 0) + 1}")
search.add_links(np.column_stack([sources, targets, np.exp((cosines - 1) / given["bandwidth"])]))
search.run()
found = np.arange(given["num_vertices"]) + given["num_vertices"]
for vertex, module in search.get_modules().items():
    found[vertex] = module
np.save(sys.argv[2], found)
""",
}


@dataclass(frozen=True)
class Baseline:
    """How to search, and what among: a point for every combination of the values, or made of the sample."""

    search: Search
    values: dict[str, list[Any]]
    most_rows: int | None = None

    def points(self, sample: Sample) -> list[Point]:
        """The points to choose from; ``max_size`` from the sizes of the sample's identities."""
        values = dict(self.values)
        if "max_size" in values:
            values["max_size"] = size_caps(sample.identities_N)
        return [dict(zip(values, each, strict=True)) for each in product(*values.values())]


def baselines(python: str | None) -> dict[str, Baseline]:
    """All of them by name; those of another environment where its interpreter is given."""
    thresholds = [round(float(each), 2) for each in THRESHOLDS]
    found = {
        "cosine components": Baseline(components, {"min_score": thresholds}),
        "cosine CDP": Baseline(cdp, {"max_size": [], "min_score": thresholds}),
        "DBSCAN": Baseline(dbscan, {"min_samples": [2, 3, 5, 10], "eps": [round(1 - each, 2) for each in thresholds]}),
        "average linkage": Baseline(
            average_linkage, {"distance": [round(each / 50, 2) for each in range(5, 50)]}, ALL_PAIRS_ROWS
        ),
        "HDBSCAN": Baseline(
            hdbscan, {"min_cluster_size": [2, 4], "cluster_selection_method": ["eom", "leaf"]}, ALL_PAIRS_ROWS
        ),
    }
    if python:
        resolutions = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5]
        found["Leiden"] = Baseline(outside(python, "Leiden"), {"floor": [0.0, 0.4], "resolution": resolutions})
        floors = [0.3, 0.4, 0.5, 0.6, 0.7]
        found["Infomap"] = Baseline(outside(python, "Infomap"), {"floor": floors, "bandwidth": [0.05, 0.1, 0.2]})
    return found


def choose(baseline: Baseline, sample: Sample, seed: int) -> Point:
    """The point of best pairwise F on the sample; the first of equals. ``seed`` is for another environment."""
    points = baseline.points(sample)
    if "floor" in points[0]:
        points = [{**point, "seed": seed} for point in points]
    scores = [f_from_counts(pair_counts(found, sample.identities_N)) for found in baseline.search(sample, points)]
    return points[int(np.argmax(scores))]


def _noise_alone(labels_N: np.ndarray) -> np.ndarray:
    alone = labels_N < 0
    return np.where(alone, labels_N.max() + 1 + np.cumsum(alone), labels_N)
