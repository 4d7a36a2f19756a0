"""Edge tables: each undirected edge once, in the order of its owning row, cut and read by ranges of rows.

Columns ``source`` < ``target`` int32, ``similarity`` float32, and ``score`` float32 where a method gave one. Parts
record how many edges each chunk of rows owns, so that any range of whole chunks can be read from parts of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.graph.adjacency import undirected_edges
from engine.runs.step import RowStep, Task
from engine.steps.knn import Knn
from engine.storage.context import committed_records, folder_digest
from engine.storage.manifest import Record
from engine.storage.tables import read_columns
from engine.tiles import tile_bounds
from engine.units import CHUNK_ROWS

# Bytes of edges per listed neighbour, for projections: an edge has 16 bytes, is held twice while parts are joined, and
# at most three quarters of the listings are edges of their own (part1: two thirds).
EDGE_BYTES, STORED_BYTES = 28, 12
SCORED = ("source", "target", "score")  # columns that a partition reads

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EdgeFacts:
    """How many edges each chunk of a task's rows owns, and their sum."""

    chunk_edges: list[int]
    edges: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores(RowStep[EdgeFacts]):
    """The table ``edges`` of the undirected edges of a graph, each with its similarity and score.

    Edges below ``min_similarity`` are left out. So are edges that are not among the nearest ``max_edges_per_vertex`` of
    either end, unless that is 0.
    """

    title = "score"
    facts = EdgeFacts
    knn: Knn
    min_similarity: float
    max_edges_per_vertex: int

    def write(self, task: Task, start: int, stop: int, scorer: Scorer) -> EdgeFacts:
        """Write the edges owned by these rows with ``scorer(sources, targets, similarities)``, chunk by chunk."""
        neighbors_NK, similarities_NK = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        parts, counts = [], []
        for a, b in tile_bounds(start, stop, CHUNK_ROWS):
            sources, targets, similarities = undirected_edges(
                neighbors_NK,
                similarities_NK,
                a,
                b,
                self.min_similarity,
                max_per_vertex=self.max_edges_per_vertex,
                threads=task.threads,
            )
            parts.append((sources, targets, similarities, scorer(sources, targets, similarities)))
            counts.append(len(sources))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        task.write_table("edges", dict(zip(("source", "target", "similarity", "score"), columns, strict=True)))
        return EdgeFacts(counts, sum(counts))


def read_edges(
    folder: Path,
    start: int,
    stop: int,
    names: tuple[str, ...],
    chunks: int = 1,
    records: Sequence[Record] | None = None,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Read columns of the edges owned by rows ``start..stop`` (whole chunks), chunk by chunk, in row order.

    The pieces are small and do not depend on the tasks that wrote them. With ``chunks``, up to so many chunks of one
    task come in a piece, which then depends on the tasks: for work whose result is the same for any pieces.
    ``records``: those of the folder, if they were read before.
    """
    for record in committed_records(folder, folder_digest(folder)) if records is None else records:
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
    """Count the edges of a finished edge stage."""
    return sum(record.facts["edges"] for record in committed_records(folder, folder_digest(folder)))
