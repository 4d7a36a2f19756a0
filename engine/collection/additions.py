"""New rows joined to a version: their neighbours, their places in other rows' lists, and the scores of their edges.

Only edges with a new end are scored, and those of a row of whose list, or of as much of it as its cluster is large, a
tenth has changed since its edges were scored last. All other edges keep their scores: their inputs are the same, or
nearly so.
Legend: as in ``state``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from engine.clustering.evidence import log_odds
from engine.collection.first_scores import first_scores
from engine.collection.state import GraphState, State, count_places
from engine.graph.adjacency import EdgeList
from engine.graph.insertion import (
    Insertions,
    drop_entries,
    insert_lists,
    insert_values,
    nearest_cells,
    reversed_lists,
    search_new,
)
from engine.graph.overlaps import AVERAGED, averages_of
from engine.graph.structural_inputs import SHARED_SCALES
from engine.learning.tensors import read_arrays
from engine.methods.structural import scorer as structural
from engine.methods.structural.steps import SECOND_TENSORS
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

Array = np.ndarray[Any, Any]

NUM_PROBES = 48
ONE_IN = 10  # a row's edges are scored anew once one in so many entries that matter has changed
SPARE = 8  # further neighbours that a search finds, because copies are taken out of lists
_SURELY_APART = np.float32(0.99)  # cosine below which two rows are no copies of each other


@dataclass(frozen=True)
class GraphAddition:
    """What an update adds to one graph: as ``State.add_layer`` reads it, by name."""

    arrays: dict[str, Array]


@dataclass(frozen=True)
class Addition:
    """What an update adds: to each graph, the edges scored, the vertices ``redone`` and the new rows' leaders (n,).

    ``edges``: sources, targets, similarities, scores, ordered by (source, target). ``far_share``: of the new rows,
    those that lie as far from all others as one in ``FAR_QUANTILE`` of the full run's rows.
    """

    graphs: tuple[GraphAddition, ...]
    edges: tuple[Array, Array, Array, Array]
    redone: Array
    leaders: Array
    listable: Array
    far_share: float


class Scorer:
    """The scorer that the full run has left: of both graphs, if it has a second one."""

    def __init__(self, state: State) -> None:
        self.first: structural.StructuralScorer | None = None
        self.second: structural.StructuralScorer | None = None
        self.slope, self.offset = state.kept.slope, state.kept.offset
        if state.kept.scorer is None:
            return
        tensors = read_arrays(state.root / state.kept.scorer)
        other = {
            name.removeprefix(SECOND_TENSORS): tensor
            for name, tensor in tensors.items()
            if name.startswith(SECOND_TENSORS)
        }
        if other and len(state.graphs) < 2:
            tensors = {**tensors, "calibration": structural.check_alone(tensors)}
        self.first = structural.from_tensors(tensors)
        self.second = structural.from_tensors(other) if other and len(state.graphs) > 1 else None

    def score(self, state: State, edges: EdgeList, threads: int) -> Array:
        """Score edges of the first graph, (E,) float32."""
        if state.kept.strangers is not None:
            return first_scores(state, edges)
        if self.first is None:
            return edges.similarities
        graph = state.graphs[0]
        second = state.second_scores() if self.second is not None else None
        return self.corrected(
            structural.score_edges(self.first, graph.around, graph.priors, edges, second, threads=threads)
        )

    def corrected(self, scores: Array) -> Array:
        """Move the log-odds of scores as the full run moved them."""
        if self.slope == 1 and not self.offset:
            return scores
        return (1 / (1 + np.exp(-self.slope * log_odds(scores) - self.offset))).astype(np.float32)


def add_rows(state: State, vectors_nD: Array, zeros: Array, scorer: Scorer, threads: int) -> Addition:
    """Join new rows to a version that has room for them, and give what an update has to commit.

    ``vectors_nD``: unit rows as they were given, float32; ``zeros``: which of them have no direction. The state's
    arrays are changed: rows that list new ones have them in their lists afterwards.
    """
    start, stop = state.num_rows, state.num_rows + len(vectors_nD)
    new = np.arange(start, stop, dtype=np.int32)
    listable = np.concatenate([state.listable_V, np.ones(len(new), np.bool_)])
    listable[start + zeros] = False
    leaders = new.copy()
    found: list[Insertions] = []
    for number, graph in enumerate(state.graphs):
        graph.features[start:stop] = project_rows(graph, vectors_nD, threads)
        graph.features[start + zeros] = 0
        if graph.originals is not None:
            graph.originals[start:stop] = vectors_nD
        cells = _join_cells(state, graph, start, stop, threads)
        if graph.rows_V is not None:
            graph.rows_V = np.concatenate([graph.rows_V, new])
        allowed = _by_vertex(listable, state, graph) if number else listable
        searched = graph.features, graph.neighbors, cells, allowed, start, stop, state.kept.k + SPARE, NUM_PROBES
        ids, similarities = search_new(*searched, threads)
        if number == 0:
            leaders = _leaders(state, graph, ids, similarities, start)
            listable[start:] &= leaders == new
        ids[~listable[start:]] = NO_NEIGHBOR
        similarities[~listable[start:]] = NO_SIMILARITY
        keep = listable if not number else _by_vertex(listable, state, graph)
        drop_entries(ids, similarities, np.empty((0, 0), np.uint16), keep)
        k = state.kept.k
        graph.neighbors[start:stop], graph.similarities[start:stop] = ids[:, :k], similarities[:, :k]
        taken = reversed_lists(ids[:, :k], similarities[:, :k], start)
        insert_lists(graph.neighbors, graph.similarities, *taken)
        graph.describe(np.unique(np.concatenate([taken.rows, new])), threads)
        found.append(taken)
    redone = np.empty(0, np.int32)
    if scorer.first is not None:
        redone = _to_redo(state, found[0])
    parts = []
    for number, (graph, taken) in enumerate(zip(state.graphs, found, strict=True)):
        own = redone if not number else _numbered(redone, state, graph)
        fitted = scorer.first if not number else scorer.second
        parts.append(_describe_graph(graph, taken, own, start, stop, fitted, scored=bool(number), threads=threads))
    edges = _edges_to_score(state, redone, start, stop)
    scores = scorer.score(state, edges, threads)
    leaders, joins = _row_leaders(state, leaders, start), listable[start:]
    return Addition(tuple(parts), (*edges, scores), redone, leaders, joins, _far_share(state, start))


def _far_share(state: State, start: int) -> float:
    """The share of the rows from ``start`` on that lie as far from all others as few rows of the full run did."""
    new = state.graphs[0].similarities[start:, 0]
    new = new[new > NO_SIMILARITY]
    return float((new < state.near_similarity()).mean()) if len(new) else 0.0


def project_rows(graph: GraphState, vectors_nD: Array, threads: int) -> Array:
    """Give unit rows as the graph's vertices have them, (n, D)."""
    unit = vectors_nD if graph.metric is None else graph.metric.project(vectors_nD, threads=threads)
    return unit.astype(graph.features.dtype)


def _join_cells(state: State, graph: GraphState, start: int, stop: int, threads: int) -> Any:
    """Put the new vertices into their nearest cells; give all cells."""
    if graph.offsets is None:
        graph.cell_of_later = np.concatenate([graph.cell_of_later, np.zeros(stop - start, np.int32)])
        return None
    graph.cells(state.kept.num_rows)
    assert graph.centroids is not None
    nearest = nearest_cells(graph.features[start:stop], graph.centroids, 1, threads)[:, 0]
    graph.cell_of_later = np.concatenate([graph.cell_of_later, nearest])
    return graph.cells(state.kept.num_rows)


def _by_vertex(values_V: Array, state: State, graph: GraphState) -> Array:
    """Put values by vertex of the first graph in the order of another graph's vertices."""
    rows = state.graphs[0].rows_V
    by_row = values_V
    if rows is not None:
        by_row = np.empty_like(values_V)
        by_row[rows] = values_V
    return by_row if graph.rows_V is None else by_row[graph.rows_V]


def _numbered(vertices: Array, state: State, graph: GraphState) -> Array:
    """Give the other graph's vertices of the same rows."""
    rows = state.graphs[0].rows_V
    own = vertices if rows is None else rows[vertices]
    if graph.rows_V is None:
        return own.astype(np.int32)
    vertex = np.empty(len(graph.rows_V), np.int32)
    vertex[graph.rows_V] = np.arange(len(graph.rows_V), dtype=np.int32)
    return vertex[own]


def _leaders(state: State, graph: GraphState, ids: Array, similarities: Array, start: int) -> Array:
    """The vertex that stands for each new one: the lowest of those with the very same vector, else itself."""
    own = np.arange(start, start + len(ids), dtype=np.int32)
    leaders = own.copy()
    bits = graph.features.view(np.int16 if graph.features.dtype == np.float16 else np.int32)
    row, rank = np.nonzero((similarities > _SURELY_APART) & (ids >= 0))
    others = ids[row, rank]
    same = (others < own[row]) & (bits[others] == bits[own[row]]).all(axis=1)
    np.minimum.at(leaders, row[same], others[same])
    for place in np.flatnonzero(leaders != own):  # a copy of a copy: its leader comes before it
        leader = leaders[place]
        leaders[place] = leaders[leader - start] if leader >= start else leader
    return leaders


def _row_leaders(state: State, leaders: Array, start: int) -> Array:
    """The leaders by row number."""
    rows = state.graphs[0].rows_V
    if rows is None:
        return leaders
    return np.where(leaders < start, rows[leaders], leaders).astype(np.int32)


def _to_redo(state: State, taken: Insertions) -> Array:
    """The vertices whose edges are scored anew, because one in ten of what they list has changed.

    Of the whole list, or of as many first entries as the vertex's cluster has rows: a small identity's rows stand
    there, and the scorer weighs that part alone, too.
    """
    changed_VS = state.changed_VS + count_places(taken.rows, taken.places, len(state.changed_VS))
    scales = np.array(SHARED_SCALES)
    own_V = np.zeros(len(changed_VS), np.int64)
    own_V[: state.num_rows] = np.searchsorted(scales[:-1], state.cluster_sizes())
    near = np.take_along_axis(changed_VS, own_V[:, None], axis=1)[:, 0]
    return np.flatnonzero((near * ONE_IN >= scales[own_V]) | (changed_VS[:, -1] * ONE_IN >= state.kept.k)).astype(
        np.int32
    )


def _describe_graph(
    graph: GraphState,
    taken: Insertions,
    redone: Array,
    start: int,
    stop: int,
    fitted: structural.StructuralScorer | None,
    *,
    scored: bool,
    threads: int,
) -> GraphAddition:
    """Compute what the scorer reads of the new vertices, and of those done anew; with ``scored`` their scores, too."""
    new = np.arange(start, stop, dtype=np.int32)
    arrays: dict[str, Array] = {
        "features": graph.features[start:stop],
        "neighbors": graph.neighbors[start:stop],
        "similarities": graph.similarities[start:stop],
        "cells": graph.cell_of_later[-len(new) :] if len(new) else np.empty(0, np.int32),
        "inserted_rows": taken.rows,
        "inserted_neighbors": taken.neighbors,
        "inserted_similarities": taken.similarities,
        "places": taken.places,
        "redone": redone,
    }
    if graph.centroids is not None:
        arrays["centroids"] = graph.centroids
    if graph.originals is not None:
        arrays["originals"] = graph.originals[start:stop]
    for values, count in zip(graph.averages, AVERAGED, strict=False):
        for rows in (new, redone):
            listed = graph.neighbors[rows], graph.features, rows
            values[rows] = averages_of(*listed, counts=(count,), threads=threads)[:, 0]
        arrays |= {f"averages_{count}": values[start:stop], f"redone_averages_{count}": values[redone]}
    if fitted is None:
        return GraphAddition(arrays)
    _fill_table(
        graph,
        graph.priors,
        "priors",
        taken,
        new,
        redone,
        arrays,
        lambda rows: structural.priors_of(fitted.priors, graph.around, rows, threads=threads),
    )
    if scored:
        _fill_table(
            graph,
            graph.listed,
            "listed",
            taken,
            new,
            redone,
            arrays,
            lambda rows: structural.listed_scores_of(fitted, graph.around, graph.priors, rows, threads=threads),
        )
    return GraphAddition(arrays)


def _fill_table(
    graph: GraphState,
    table: Array,
    name: str,
    taken: Insertions,
    new: Array,
    redone: Array,
    arrays: dict[str, Array],
    compute: Any,
) -> None:
    """Compute a table's rows of new vertices, put their values beside them in other lists, and do some rows anew."""
    table[new] = compute(new)
    values = np.zeros(len(taken.rows), np.uint16)
    _copy_back(graph.neighbors, table, taken.rows, taken.neighbors, values)
    insert_values(table, taken.rows, taken.places, values)
    table[redone] = compute(redone)
    arrays |= {name: table[new], f"inserted_{name}": values, f"redone_{name}": table[redone]}


def _edges_to_score(state: State, redone: Array, start: int, stop: int) -> EdgeList:
    """The edges with a new end or an end that is done anew, ordered by (source, target), each once."""
    graph, total = state.graphs[0], stop
    rows = np.concatenate([np.arange(start, stop, dtype=np.int32), redone])
    listed, known = graph.neighbors[rows], graph.similarities[rows]
    offered = state.kept.max_edges_per_vertex or listed.shape[1]
    row, rank = np.nonzero(listed[:, :offered] >= 0)
    own, other, values = rows[row], listed[row, rank], known[row, rank]
    sources, targets, similarities = [np.minimum(own, other)], [np.maximum(own, other)], [values]
    if len(redone):
        again = np.zeros(total, np.bool_)
        again[redone] = True
        for a, b, value in state.edges(("source", "target", "similarity")):
            wanted = again[a] | again[b]
            sources.append(a[wanted])
            targets.append(b[wanted])
            similarities.append(value[wanted])
    a, b, value = (np.concatenate(column) for column in (sources, targets, similarities))
    keys = a.astype(np.int64) * total + b
    order = np.lexsort((-value, keys))
    firsts = order[np.unique(keys[order], return_index=True)[1]]
    firsts = firsts[value[firsts] >= np.float32(state.kept.min_similarity)]
    return EdgeList(a[firsts].astype(np.int32), b[firsts].astype(np.int32), value[firsts].astype(np.float32))


@njit(nogil=True, cache=True)
def _copy_back(neighbors, table, rows, others, values):  # type: ignore[no-untyped-def]
    """Give each insertion the value that the new vertex has beside the row in its own list."""
    for entry in range(len(rows)):
        other = others[entry]
        for rank in range(neighbors.shape[1]):
            if neighbors[other, rank] == rows[entry]:
                values[entry] = table[other, rank]
                break
