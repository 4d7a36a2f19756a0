"""Step crossing: all edges of any range of rows, read where they lie together.

An edge stands once in the table of scores, in the chunk of the row that owns it. So the edges of a range of rows are
those that its chunks own, and those that other chunks own and that end in the range. ``crossing`` writes the second
kind in the order of the rows in which they end. With both, what the edges say of each row is found range by range: in
parallel, and in memory of the range.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from engine.runs.step import RowStep, Task
from engine.stages import Cost
from engine.steps.edges import SCORED, Scores, read_edges
from engine.storage.context import committed_records, folder_digest, hold
from engine.storage.manifest import Record
from engine.storage.tables import read_columns
from engine.tiles import map_tiles, tile_bounds
from engine.units import CHUNK_ROWS

READ_ROWS = 2 * CHUNK_ROWS  # that a thread reads at once
# Crossing edges per listed neighbour, for projections: all edges may cross where vertices are in no order of cells.
# Of the stand-in's in that order a third does.
CROSSING_SHARE = 0.7
_COLUMNS = ("end", "other", "score")

Piece = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class CrossingFacts:
    """How many edges cross chunks; the least and highest similarity and score of all edges, and those without a score.

    A method that scores only some edges gives the others -1; these have no score. Ranges are empty without any value.
    """

    crossing: int
    similarity: list[float]
    score: list[float]
    unscored: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Crossing(RowStep[CrossingFacts]):
    """The table ``crossing`` of edges that end in another chunk than their owner's: ``end``, ``other``, ``score``.

    ``end`` is the row in the other chunk. Edges are in the order of ``end``; those of one ``end`` in that of their
    owners.
    """

    kind, version, title = "crossing", 1, "crossing"
    facts = CrossingFacts
    score: Scores

    def cost(self) -> Cost:
        """Project the edges of the rows, and a sort of those that cross."""
        n, k = self.num_rows, self.score.knn.k
        return Cost(
            bytes_per_row=k * 44 * CROSSING_SHARE,
            bytes_per_thread=CHUNK_ROWS * k * 32,
            disk_bytes=int(n * k * 12 * CROSSING_SHARE),
            seconds=n * k / 2e7,
        )

    def run(self, task: Task, start: int, stop: int) -> CrossingFacts:
        """Sort the crossing edges of these rows."""
        names = ("source", "target", "similarity", "score")
        pieces = read_edges(task.input(self.score), start, stop, names)
        chunks = zip(tile_bounds(start, stop, CHUNK_ROWS), pieces, strict=True)
        found = map_tiles(lambda chunk: _look(*chunk[0], *chunk[1]), chunks, task.threads)
        ends, others, scores = (np.concatenate(column) for column in zip(*(piece for piece, _ in found), strict=True))
        order = np.argsort(ends, kind="stable")
        task.write_table("crossing", dict(zip(_COLUMNS, (ends[order], others[order], scores[order]), strict=True)))
        return join_facts(facts for _, facts in found)


def join_facts(parts: Iterable[CrossingFacts]) -> CrossingFacts:
    """Join the facts of several ranges of rows."""
    found = list(parts)
    ranges = {}
    for name in ("similarity", "score"):
        values = [value for part in found for value in getattr(part, name)]
        ranges[name] = [min(values), max(values)] if values else []
    return CrossingFacts(
        crossing=sum(part.crossing for part in found), unscored=sum(part.unscored for part in found), **ranges
    )


def is_scored(similarities: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Tell which edges have a score: a method that scores only some edges gives the others -1."""
    return (scores > -1) | (similarities <= -1)


def _look(
    start: int, stop: int, sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray, scores: np.ndarray
) -> tuple[Piece, CrossingFacts]:
    """Pick a chunk's edges that end outside of it."""
    count = _count_crossing(sources, targets, start, stop)
    piece = np.empty(count, sources.dtype), np.empty(count, sources.dtype), np.empty(count, np.float32)
    _pick_crossing(sources, targets, scores, start, stop, *piece)
    scored = scores[is_scored(similarities, scores)]
    return piece, CrossingFacts(count, _range(similarities), _range(scored), len(scores) - len(scored))


def _range(values: np.ndarray) -> list[float]:
    return [float(values.min()), float(values.max())] if len(values) else []


class Incident:
    """The edges of ranges of rows, each in the order of their owners: those before the range, its own, those after."""

    def __init__(self, task: Task, score: Scores, crossing: Crossing) -> None:
        self._score, folder = task.input(score), task.input(crossing)
        self._owned = hold(("records", str(self._score)), lambda: _records(self._score))
        self._parts = hold(("crossing", str(folder)), lambda: [
            (record.start, record.stop, read_columns(folder / record.outputs[0].path, _COLUMNS))
            for record in _records(folder)
        ])  # fmt: skip

    def read(self, start: int, stop: int) -> tuple[Piece, Piece, Piece]:
        """Give (sources, targets, scores) of three kinds: owned before these whole chunks, in them, and after them.

        Of an edge owned elsewhere, the source is the row in the range. Only the second kind may have both ends in it.
        """
        before: list[Piece] = []
        after: list[Piece] = []
        for first, last, columns in self._parts:
            low, high = np.searchsorted(columns[0], np.array([start, stop], columns[0].dtype))
            if low == high:
                continue
            ends, others, scores = (column[low:high] for column in columns)
            if last <= start:
                before.append((ends, others, scores))
            elif first >= stop:
                after.append((ends, others, scores))
            else:
                for side, kept in ((before, others < start), (after, others >= stop)):
                    side.append((ends[kept], others[kept], scores[kept]))
        owned = [
            (sources, targets, scores)
            for sources, targets, scores in read_edges(
                self._score, start, stop, SCORED, READ_ROWS // CHUNK_ROWS, self._owned
            )
        ]
        return _joined(before), _joined(owned), _joined(after)


def _records(folder: Path) -> list[Record]:
    return committed_records(folder, folder_digest(folder))


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    empty = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    sources, targets, scores = (np.concatenate(column) for column in zip(empty, *pieces, strict=True))
    return sources, targets, scores


@njit(nogil=True, cache=True)
def _count_crossing(sources, targets, start, stop):  # type: ignore[no-untyped-def]
    count = 0
    for edge in range(len(sources)):
        count += (start <= sources[edge] < stop) != (start <= targets[edge] < stop)
    return count


@njit(nogil=True, cache=True)
def _pick_crossing(sources, targets, scores, start, stop, ends, others, out):  # type: ignore[no-untyped-def]
    place = 0
    for edge in range(len(sources)):
        a, b = sources[edge], targets[edge]
        inside = start <= a < stop
        if inside == (start <= b < stop):
            continue
        ends[place], others[place], out[place] = (b, a, scores[edge]) if inside else (a, b, scores[edge])
        place += 1
