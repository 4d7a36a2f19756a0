"""First clusters as identities, for a run that has no labels to learn from."""

from __future__ import annotations

import numpy as np

from engine.clustering.label_free import LEAST_CLUSTERS
from engine.runs.step import Facts, Step, Task
from engine.steps.knn import Order, vertex_rows


def first_identities(task: Task, first: Step[Facts]) -> np.ndarray | None:
    """Give the first cluster of each vertex; ``None`` if too few clusters of two rows and more are there to learn from.

    A vertex alone is an identity of its own: both opinions hold it for one.
    """
    roots_N = np.asarray(task.npy(first, "roots")).astype(np.int64)
    return roots_N if np.count_nonzero(np.bincount(roots_N) > 1) >= LEAST_CLUSTERS else None


def first_identities_by_row(task: Task, first: Step[Facts], order: Order | None) -> np.ndarray | None:
    """Give what ``first_identities`` does, by source row."""
    identities_N = first_identities(task, first)
    if identities_N is None or order is None:
        return identities_N
    by_row_N = np.empty_like(identities_N)
    by_row_N[vertex_rows(task, order)] = identities_N
    return by_row_N
