"""Step aggregate: Âx, each vertex's vector averaged with its neighbours' vectors, which graph convolutions read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.graph.adjacency import aggregate, symmetric_rows
from engine.runs.step import RowStep, Task
from engine.stages import Cost
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn


@dataclass(frozen=True, kw_only=True, eq=False)
class Aggregate(RowStep[None]):
    """Rows of Âx, ``aggregated`` (N, D) float16; if ``k`` is given, over the nearest ``k`` neighbours alone."""

    kind, version, title = "aggregate", 1, "aggregate"
    features: Vectors[Any]
    knn: Knn
    k: int | None = None

    @property
    def number(self) -> int:
        return self.k or 0

    def cost(self) -> Cost:
        """A gather of the neighbours."""
        n, dim, k = self.num_rows, self.features.dim, self.k or self.knn.k
        return Cost(
            bytes_per_row=dim * 4 + k * 44,
            disk_bytes=n * dim * 2,
            seconds=n * k * dim / 1.5e9,
            seconds_per_task=n * k / 1e9,  # each task scans all rows for rows that list its own
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Average these vertices' neighbours."""
        neighbors_NK, similarities_NK = (
            task.array(self.knn, name)[:, : self.k] for name in ("neighbors", "similarities")
        )
        rows = symmetric_rows(neighbors_NK, similarities_NK, start, stop, threads=task.threads)
        aggregated = aggregate(*rows, task.array(self.features, "features"), threads=task.threads)
        task.write_rows("aggregated", aggregated, np.float16)
