"""First clusters as identities, for a run that has no labels to learn from."""

from __future__ import annotations

import numpy as np

from engine.clustering.label_free import LEAST_CLUSTERS, LEAST_JOINED
from engine.runs.step import Facts, Step, Task
from engine.steps.knn import Order, vertex_rows


def first_identities(task: Task, first: Step[Facts]) -> np.ndarray | None:
    """Give the first cluster of each vertex, -1 for a vertex alone; ``None`` if clusters are too few to learn from."""
    roots_N = np.asarray(task.npy(first, "roots"))
    sizes_N = np.bincount(roots_N, minlength=len(roots_N))
    identities_N = np.where(sizes_N[roots_N] > 1, roots_N, -1).astype(np.int64)
    enough = np.count_nonzero(sizes_N > 1) >= LEAST_CLUSTERS and (identities_N >= 0).mean() >= LEAST_JOINED
    return identities_N if enough else None


def first_identities_by_row(task: Task, first: Step[Facts], order: Order | None) -> np.ndarray | None:
    """Give what ``first_identities`` does, by source row."""
    identities_N = first_identities(task, first)
    if identities_N is None or order is None:
        return identities_N
    by_row_N = np.empty_like(identities_N)
    by_row_N[vertex_rows(task, order)] = identities_N
    return by_row_N
