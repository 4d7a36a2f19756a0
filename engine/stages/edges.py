"""Edge tables: each undirected edge once, in the order of its owning row, cut and read by ranges of rows.

Columns ``source`` < ``target`` int32, ``similarity`` float32, and ``score`` float32 where a method gave one. Parts
record how many edges each chunk of rows owns, so that any range of whole chunks can be read from parts of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.graph.adjacency import undirected_edges
from engine.plan import CHUNK_ROWS
from engine.storage.context import TaskContext, committed_records, folder_digest
from engine.storage.tables import read_columns
from engine.tiles import tile_bounds

# For projections, per listed neighbour: an edge has 16 bytes, held twice while parts are joined, and at most three
# quarters of the listings are edges of their own (part1: two thirds).
EDGE_BYTES, STORED_BYTES = 28, 12

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def write_edges(task: TaskContext, start: int, stop: int, scorer: Scorer) -> dict[str, Any]:
    """Write the edges owned by rows ``start..stop`` with ``scorer(sources, targets, similarities)``, chunk by chunk.

    The parameters ``min_similarity`` and ``max_edges_per_vertex`` say which edges there are.
    """
    neighbors_NK, similarities_NK = task.array("knn", "neighbors"), task.array("knn", "similarities")
    parts, counts = [], []
    for a, b in tile_bounds(start, stop, CHUNK_ROWS):
        edges = undirected_edges(
            neighbors_NK, similarities_NK, a, b, task.params["min_similarity"],
            max_per_vertex=task.params["max_edges_per_vertex"], threads=task.threads,
        )  # fmt: skip
        sources, targets, similarities = edges
        parts.append((sources, targets, similarities, scorer(sources, targets, similarities)))
        counts.append(len(sources))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    task.write_table("edges", dict(zip(("source", "target", "similarity", "score"), columns, strict=True)))
    return {"chunk_edges": counts, "edges": sum(counts)}


def read_edges(
    folder: Path, start: int, stop: int, names: tuple[str, ...], chunks: int = 1
) -> Iterator[tuple[np.ndarray, ...]]:
    """Read columns of the edges owned by rows ``start..stop`` (whole chunks), chunk by chunk, in row order.

    The pieces are the same whatever the tasks were that wrote them, and small whatever they were. With ``chunks`` up to
    that many chunks of one task come in a piece: for work whose result does not hang on the pieces.
    """
    for record in committed_records(folder, folder_digest(folder)):
        begin, end = max(start, record.start), min(stop, record.stop)
        if begin >= end:
            continue
        offsets = np.concatenate([[0], np.cumsum(record.facts["chunk_edges"])])
        table = next(output.path for output in record.outputs if output.path.startswith("edges/"))
        columns = read_columns(folder / table, names)
        last = -(-(end - record.start) // CHUNK_ROWS)
        for chunk in range((begin - record.start) // CHUNK_ROWS, last, chunks):
            piece = slice(offsets[chunk], offsets[min(chunk + chunks, last)])
            yield tuple(column[piece] for column in columns)


def iterate_edges(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[np.ndarray, ...]]:
    """Read columns of all edges, chunk by chunk, in row order."""
    return read_edges(folder, 0, np.iinfo(np.int64).max, names)


def num_edges(folder: Path) -> int:
    """Number of edges in a finished edge stage."""
    return sum(record.facts["edges"] for record in committed_records(folder, folder_digest(folder)))
