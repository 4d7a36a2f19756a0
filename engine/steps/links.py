"""The rows of a weighted graph that a range of vertices has, read from scored edges by a companion of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from engine.clustering.csr import weighted_rows
from engine.runs.step import Task
from engine.stages import Cost
from engine.steps.crossing import READ_ROWS, Crossing, Incident
from engine.steps.edges import Scores
from engine.storage.companions import Companions, start_here
from engine.tiles import map_tiles, tile_bounds
from engine.units import CHUNK_ROWS

# Vertices of a range, of which each has its own links, and something of every vertex of the graph.
RANGE_VERTICES = 1 << 26
KEPT = 0.75  # projected edges per listed neighbour: an edge often stands in both ends' lists (part1: 0.4 to 0.7)

Array = np.ndarray[Any, Any]
Weigh = Callable[[Array, Array, Array], tuple[Array, Array, Array]]


def walk_cost(num_vertices: int, offered: int, searches: int = 1) -> Cost:
    """Project a search for modules, of vertices that list ``offered`` neighbours, so many times over."""
    n, edges = num_vertices, num_vertices * offered
    return Cost(
        fixed_bytes=110 * n + (64 << 20),
        bytes_per_thread=32 << 20,
        disk_bytes=4 * n,
        seconds=n / 1.5e6 * searches,
        companions=-(-n // RANGE_VERTICES),
        companion_bytes=int(16 * KEPT * edges) + 40 * n,
        companion_seconds=edges / 3e6 * searches,
    )


@contextmanager
def module_ranges(task: Task, name: str, num_vertices: int, asked: int, *arguments: Any) -> Iterator[Companions]:
    """Start companions ``name`` of (call, start, stop, *arguments), one for each range of vertices.

    ``asked``: how many; 0: one for each ``RANGE_VERTICES`` vertices, but no more than there are workers.
    """
    count = asked or max(1, min(-(-num_vertices // RANGE_VERTICES), task.call.workers))
    chunks = -(-num_vertices // CHUNK_ROWS)
    cuts = [min(number * chunks // count * CHUNK_ROWS, num_vertices) for number in range(count + 1)]
    given = [(task.sent, start, stop, *arguments) for start, stop in pairwise(cuts)]
    if count == 1:
        yield start_here(name, given)
        return
    with task.companions(name, given) as companions:
        yield companions


def linked_rows(
    task: Task, score: Scores, crossing: Crossing, start: int, stop: int, weigh: Weigh
) -> tuple[Array, ...]:
    """Give rows ``start..stop`` (whole chunks) of the graph's symmetric CSR: indptr, indices and weights.

    ``weigh`` picks and weighs edges of (sources, targets, scores).
    """
    incident = Incident(task, score, crossing)

    def rows(bounds: tuple[int, int]) -> tuple[Array, Array, Array]:
        indptr, indices, weights = weighted_rows(*bounds, [weigh(*piece) for piece in incident.read(*bounds)])
        return np.diff(indptr), indices, weights

    none = (np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    found = map_tiles(rows, tile_bounds(start, stop, READ_ROWS), task.threads)
    degrees, indices, weights = (np.concatenate(column) for column in zip(none, *found, strict=True))
    return np.append(0, np.cumsum(degrees)), indices, weights
