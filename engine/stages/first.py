"""First clusters as identities to learn from, of a run without labels: what ``self_trained`` fits to."""

from __future__ import annotations

import numpy as np

from engine.storage.context import TaskContext, read_npy

LEAST_CLUSTERS = 50  # of two rows and more, for first clusters to be learned from
LEAST_JOINED = 0.01  # of the rows, likewise: there are some in noise


def first_identities(task: TaskContext) -> np.ndarray | None:
    """The stage ``first``'s clusters by vertex, -1 for rows alone; ``None`` if they are too few to learn from."""
    roots_N = np.asarray(read_npy(task.input("first"), "roots"))
    sizes_N = np.bincount(roots_N, minlength=len(roots_N))
    identities_N = np.where(sizes_N[roots_N] > 1, roots_N, -1).astype(np.int64)
    enough = np.count_nonzero(sizes_N > 1) >= LEAST_CLUSTERS and (identities_N >= 0).mean() >= LEAST_JOINED
    return identities_N if enough else None


def first_identities_by_row(task: TaskContext) -> np.ndarray | None:
    """The same, by row."""
    identities_N = first_identities(task)
    if identities_N is None or "order" not in task.call.inputs:
        return identities_N
    by_row_N = np.empty_like(identities_N)
    by_row_N[read_npy(task.input("order"), "row_of_vertex")] = identities_N
    return by_row_N
