"""Steps that count copies once: which rows are copies of each other, and the KNN graph without them.

Bursts of photos, frames of a video, reposts and records entered twice say the same thing again. If they counted, they
would be every row's nearest, and the only ones in its list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from engine.clustering.label_free import LESS_TRUST, MANY_COPIES, NEAR_COPY
from engine.clustering.union_find import UnionFind
from engine.graph.adjacency import undirected_edges
from engine.graph.similarity import listed_similarities, sort_neighbors
from engine.methods.self_trained.strangers import Told
from engine.runs.step import Step, Task
from engine.stages import Cost
from engine.steps.copies import Copies, CopyFacts, leaders_by_vertex
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order, vertex_rows
from engine.storage.context import hold
from engine.tiles import tile_bounds
from engine.units import CHUNK_ROWS, NO_NEIGHBOR, NO_SIMILARITY

_SURELY_APART = 0.99  # cosine below which two rows are no exact copies, whatever the rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class NearCopies(Copies):
    """Rows of one vector, and rows that are ``1 / NEAR_COPY`` times as near to each other as to a stranger.

    How near the nearest stranger is to either row, ``strangers`` tells. Copies of copies are of one group. ``exact``
    (N,): the same of rows of one vector alone.
    """

    kind, version, title = "self_trained.near_copies", 1, "near_copies"
    features: Vectors[Any]
    knn: Knn
    order: Order | None
    strangers: Step[Any]

    def cost(self) -> Cost:
        """Project a pass over the lists, and a few arrays of all rows."""
        n, k = self.knn.num_rows, self.knn.k
        return Cost(fixed_bytes=n * 24 + CHUNK_ROWS * k * 40, disk_bytes=n * 4, seconds=n * k / 3e7)

    def run(self, task: Task, start: int, stop: int) -> CopyFacts:
        """Find the groups."""
        graph = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        apart_V = np.maximum(1 - np.asarray(task.npy(self.strangers, "place")), 0) * np.float32(NEAR_COPY)
        features_VD = task.array(self.features, "features")
        bits_VD = features_VD.view(np.int16 if features_VD.dtype == np.float16 else np.int32)
        near_copies, exact_copies = UnionFind(self.knn.num_rows), UnionFind(self.knn.num_rows)
        for begin, end in tile_bounds(0, self.knn.num_rows, CHUNK_ROWS):
            a, b, similarities = undirected_edges(*graph, begin, end, threads=task.threads)
            exact = _exact(bits_VD, a, b, similarities)
            exact_copies.add(a[exact], b[exact])
            near = exact | (1 - similarities < np.minimum(apart_V[a], apart_V[b]))
            near_copies.add(a[near], b[near])
        rows_V = np.arange(self.knn.num_rows) if self.order is None else vertex_rows(task, self.order)
        leaders_N = _leaders(near_copies.roots(), rows_V)
        task.write_npy("leaders", leaders_N)
        task.write_npy("exact", _leaders(exact_copies.roots(), rows_V))
        return _count(leaders_N)


def _leaders(groups_V: np.ndarray, rows_V: np.ndarray) -> np.ndarray:
    """The first row of each row's group, by source row."""
    firsts_V = np.full(len(groups_V), len(groups_V), np.int32)
    np.minimum.at(firsts_V, groups_V, rows_V.astype(np.int32))
    leaders_N = np.empty_like(firsts_V)
    leaders_N[rows_V] = firsts_V[groups_V]
    return leaders_N


def _count(leaders_N: np.ndarray) -> CopyFacts:
    return CopyFacts(int((leaders_N != np.arange(len(leaders_N))).sum()))


@njit(nogil=True, cache=True)
def _exact(bits, sources, targets, similarities):  # type: ignore[no-untyped-def]
    """Mark the edges whose ends have the very same vector."""
    found = np.zeros(len(sources), np.bool_)
    for edge in range(len(sources)):
        if similarities[edge] > _SURELY_APART:
            found[edge] = (bits[sources[edge]] == bits[targets[edge]]).all()
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedOnce(Copies):
    """The copies that count once: those of one vector, and near-copies if they hide what belongs together.

    They do if more pairs are expected to belong together without them than with them: then the graph's gaps lie
    between bursts, not between identities. They also do if they are ``MANY_COPIES`` of the rows and a true edge is
    expected for each of the others: then codelength would find bursts. Else a near-copy is one more observation of its
    identity. So it is if less than ``LESS_TRUST`` of the trust is left: rows of clean identities are near-copies, and
    the few that are left without them look like unrelated ones.
    """

    kind, version = "self_trained.copies", 5
    near: NearCopies
    without: Step[Told]
    listed: Step[Told]

    def cost(self) -> Cost:
        """Project a copy."""
        n = self.near.knn.num_rows
        return Cost(fixed_bytes=n * 8, disk_bytes=n * 4, seconds=n / 1e8)

    def run(self, task: Task, start: int, stop: int) -> CopyFacts:
        """Choose."""
        listed, without = task.facts(self.listed), task.facts(self.without)
        many = without.rows <= (1 - MANY_COPIES) * listed.rows and without.expected >= without.rows
        hidden = many or without.expected > listed.expected
        hidden = hidden and without.trust >= LESS_TRUST * listed.trust
        leaders_N = np.asarray(task.npy(self.near, "leaders" if hidden else "exact"))
        task.write_npy("leaders", leaders_N)
        return _count(leaders_N)


@dataclass(frozen=True, kw_only=True, eq=False)
class Distinct(Knn):
    """The KNN graph in which the first row of a group stands for all of it, and its copies list nobody.

    A list has fewer places filled where it held several rows of a group.
    """

    kind, version, title = "self_trained.distinct", 2, "distinct"
    listed: Knn
    copies: Copies

    def cost(self) -> Cost:
        """Project a copy of the lists."""
        n, entries = self.num_rows, self.num_rows * self.k
        return Cost(fixed_bytes=n * 12, bytes_per_row=self.k * 40, disk_bytes=entries * 8, seconds=entries / 1e8)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Write the lists of these rows."""
        neighbors = np.array(task.array(self.listed, "neighbors")[start:stop])
        similarities = np.array(task.array(self.listed, "similarities")[start:stop])
        leaders_V = hold(("leaders", task.call.digest), lambda: leaders_by_vertex(task, self.copies, self.order))
        stand_in = np.where(neighbors >= 0, leaders_V[neighbors], np.int32(NO_NEIGHBOR))
        changed = np.flatnonzero((stand_in != neighbors).any(axis=1))
        if len(changed):
            features_VD = task.array(self.features, "features")
            neighbors[changed] = stand_in[changed]
            similarities[changed] = listed_similarities(
                features_VD, changed + start, neighbors[changed], threads=task.threads
            )
            part = neighbors[changed], similarities[changed]
            sort_neighbors(*part, threads=task.threads)
            neighbors[changed], similarities[changed] = part
        _leave_out(neighbors, similarities, start, leaders_V)
        task.write_rows("neighbors", neighbors, np.int32)
        task.write_rows("similarities", similarities, np.float32)


class NearDistinct(Distinct):
    """The same without near-copies, to see what they hide."""

    title = "near_distinct"


@njit(nogil=True, cache=True)
def _leave_out(neighbors, similarities, start, leaders):  # type: ignore[no-untyped-def]
    """Keep the first of equal entries of sorted lists, and none of a vertex itself; a copy keeps none at all."""
    for row in range(len(neighbors)):
        own, kept = start + row, 0
        if leaders[own] == own:
            for k in range(neighbors.shape[1]):
                other = neighbors[row, k]
                if other < 0 or other == own or (kept > 0 and neighbors[row, kept - 1] == other):
                    continue
                neighbors[row, kept], similarities[row, kept] = other, similarities[row, k]
                kept += 1
        neighbors[row, kept:] = NO_NEIGHBOR
        similarities[row, kept:] = NO_SIMILARITY
