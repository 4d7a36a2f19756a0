"""Leiden (igraph) and Infomap on a cosine KNN graph, in the interpreter of another environment.

Both are GPL: an outside yardstick, never a dependency.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from run_graph import Edges

from engine.evaluation.metrics import f_from_counts, pair_counts

Point = dict[str, Any]

VALUES: dict[str, dict[str, list[float]]] = {
    "Leiden": {"floor": [0.0, 0.4], "resolution": [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5]},
    "Infomap": {"floor": [0.3, 0.4, 0.5, 0.6, 0.7], "bandwidth": [0.05, 0.1, 0.2]},
}
_READ = """
import json, sys
import numpy as np
given = json.loads(sys.argv[3])
table = np.load(sys.argv[1], allow_pickle=False)
sources, targets, cosines = (table[f"arr_{number}"] for number in range(3))
kept = cosines >= given["floor"]
sources, targets, cosines = sources[kept], targets[kept], cosines[kept].astype(float)
"""
_SCRIPTS = {
    "Leiden": _READ
    + """
import igraph, random
random.seed(given["seed"])
graph = igraph.Graph(given["num_vertices"], np.column_stack([sources, targets]))
found = graph.community_leiden("CPM", weights=cosines, resolution=given["resolution"], n_iterations=10)
np.save(sys.argv[2], np.array(found.membership, np.int64))
""",
    "Infomap": _READ
    + """
import infomap
search = infomap.Infomap(f"--two-level --silent --num-trials 1 --seed {given['seed'] + 1}")
search.add_links(np.column_stack([sources, targets, np.exp((cosines - 1) / given["bandwidth"])]))
search.run()
found = np.arange(given["num_vertices"]) + given["num_vertices"]
for vertex, module in search.get_modules().items():
    found[vertex] = module
np.save(sys.argv[2], found)
""",
}


def cluster(python: str, kind: str, num_vertices: int, edges: Edges, points: list[Point]) -> Iterator[np.ndarray]:
    """Labels (N,) of each point, on cosines of at least its ``floor``."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "edges.npz", *edges)
        for point in points:
            found = Path(folder) / "found.npy"
            given = json.dumps({"num_vertices": num_vertices, **point})
            subprocess.run([python, "-c", _SCRIPTS[kind], f"{folder}/edges.npz", found, given], check=True)
            yield np.load(found, allow_pickle=False)


def choose(python: str, kind: str, edges: Edges, identities_N: np.ndarray, seed: int) -> Point:
    """The point of best pairwise F; the first of equals."""
    values = VALUES[kind]
    points = [dict(zip(values, each, strict=True)) | {"seed": seed} for each in product(*values.values())]
    found = cluster(python, kind, len(identities_N), edges, points)
    return points[int(np.argmax([f_from_counts(pair_counts(labels, identities_N)) for labels in found]))]
