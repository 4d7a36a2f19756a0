"""Compile the kernels that most tests run, once for all test processes: ``python -m tests.support.kernels``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from engine import cluster, train
from tests.support.vectors import make_blobs, standin

if __name__ == "__main__":
    cluster(make_blobs(1_500, 16), labels=[row % 125 for row in range(1_500)])
    cluster(make_blobs(5_000, 16), method="cosine", **{"knn.mode": "partition", "partition.method": "components"})
    with tempfile.TemporaryDirectory() as folder:
        few = {"trees.num_trees": 3, "trees.levels": 2, "knn.k": 20}
        train(*standin(15, 3), Path(folder) / "model", method="structural", **few)
