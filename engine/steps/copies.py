"""Which rows are copies of others. They count once in what clusters are made of, and all of them get the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.runs.step import Step, Task
from engine.stages import Cost
from engine.steps.knn import Order, vertex_rows


@dataclass(frozen=True)
class CopyFacts:
    """How many rows are copies of an earlier row."""

    copies: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies(Step[CopyFacts]):
    """Groups of copies: ``leaders`` (N,) int32, by source row: the first row of the row's group."""

    title = "copies"
    facts = CopyFacts


@dataclass(frozen=True, kw_only=True, eq=False)
class NoCopies(Copies):
    """No row is a copy: where all rows count, and what reads copies must be given some."""

    kind, version, title = "copies.none", 1, "no_copies"
    num_rows: int

    def cost(self) -> Cost:
        """Project an array."""
        return Cost(fixed_bytes=self.num_rows * 4, disk_bytes=self.num_rows * 4, seconds=self.num_rows / 1e8)

    def run(self, task: Task, start: int, stop: int) -> CopyFacts:
        """Write that each row stands for itself."""
        task.write_npy("leaders", np.arange(self.num_rows, dtype=np.int32))
        return CopyFacts(0)


def leaders_by_row(task: Task, copies: Copies) -> np.ndarray:
    """The first row of each row's group of copies: (N,) int32."""
    return np.asarray(task.npy(copies, "leaders"))


def leaders_by_vertex(task: Task, copies: Copies, order: Order | None) -> np.ndarray:
    """The vertex that stands for each vertex: (N,) int32; itself unless it is a copy."""
    leaders_N = leaders_by_row(task, copies)
    if order is None:
        return leaders_N
    rows_V = vertex_rows(task, order)
    vertex_N = np.empty_like(leaders_N)
    vertex_N[rows_V] = np.arange(len(rows_V), dtype=vertex_N.dtype)
    return vertex_N[leaders_N[rows_V]]
