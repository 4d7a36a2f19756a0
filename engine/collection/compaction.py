"""A version written anew in one piece: its layers are merged, and rows that are to go leave no trace.

Vertices are numbered by cell again, so that the new rows lie where their neighbours lie.
Legend: as in ``state``; M rows that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.first_scores import lines_of
from engine.collection.kept import PREFIXES, KeptGraph, Where
from engine.collection.since import since_full_run
from engine.collection.state import GraphState, State, read_lineage
from engine.collection.versions import KEPT_FILE
from engine.graph.insertion import drop_entries
from engine.graph.overlaps import AVERAGED, averages_of
from engine.methods.self_trained.steps import FILES
from engine.runs.step import Facts, Task
from engine.steps.ingest import row_column, zero_rows
from engine.storage import arrays
from engine.storage.manifest import copy_atomic
from engine.storage.tables import take_joined
from engine.tiles import tile_bounds
from engine.units import CHUNK_ROWS, NO_NEIGHBOR, file_rows

Array = np.ndarray[Any, Any]

SCORER_FILE = "scorer.safetensors"


def compact(task: Task, state: State, gone: Array) -> Facts:
    """Write all that a version holds but the rows ``gone``. What ``Kept`` names is written to the task's folder."""
    since, near = since_full_run(state.kept, state.layers).without(state.ids.numbers(gone)), state.near_similarity()
    keep_N = np.ones(state.num_rows, np.bool_)
    keep_N[gone] = False
    hurt, lost = np.unique(state.labels_N[gone], return_counts=True)
    _promote(state, keep_N)
    rows_M = np.flatnonzero(keep_N)
    number_N = np.full(state.num_rows, -1, np.int64)
    number_N[rows_M] = np.arange(len(rows_M))
    own = Path(task.call.folder)
    folder = str(own.relative_to(state.root)) if own.is_relative_to(state.root) else str(own)
    graphs = tuple(
        _write_graph(task, folder, prefix, graph, state, keep_N, number_N)
        for prefix, graph in zip(PREFIXES, state.graphs, strict=False)
    )
    first = state.graphs[0]
    vertex_M = _survivors(first, state, keep_N)
    edges, chunks = _edges(state, vertex_M, keep_N)
    task.write_table("edges", edges)
    _write_rows(task, state, rows_M)
    task.write_npy("changed", state.changed_VS[vertex_M])
    task.write_npy("labels", state.labels_N[rows_M])
    task.write_table("lineage", read_lineage(state.history))
    task.write_npy("leaders", number_N[state.leaders_N[rows_M]].astype(np.int32))
    if len(state.pairs):
        stay = keep_N[state.pairs].all(axis=1)
        task.write_npy("pairs", number_N[state.pairs[stay]])
        task.write_npy("same", state.same[stay])
    if state.kept.strangers is not None:
        for name, values in zip(FILES, lines_of(state, state.num_rows), strict=True):
            task.write_npy(name, values if name == "log_odds" else values[vertex_M])
    task.write_npy("lost", np.stack([hurt, lost])[:, hurt >= 0])
    touched_M = np.isin(state.labels_N[rows_M], hurt[hurt >= 0])
    task.write_npy("touched", touched_M[number_N[state.row_numbers[vertex_M]]])
    scorer = None
    if state.kept.scorer is not None:
        scorer = _copy(task, state.root / state.kept.scorer, SCORER_FILE, folder)
    kept = replace(
        state.kept,
        num_rows=len(rows_M),
        graphs=graphs,
        edges=folder,
        scorer=scorer,
        rows=folder,
        labels=(folder, "labels"),
        leaders=(folder, "leaders"),
        next_row=state.next_row,
        removed=state.kept.removed + len(gone),
        answers=folder if len(state.pairs) else None,
        strangers=folder if state.kept.strangers is not None else None,
        changed=folder,
        facts={
            **state.kept.facts,
            **since.facts(),
            "near": near,
            "next_cluster": state.next_cluster,
            "lineage": folder,
        },
    )
    task.write_json(KEPT_FILE.removesuffix(".json"), asdict(kept))
    zeros_N = np.zeros(state.num_rows, np.bool_)
    zeros_N[_zeros(state)] = True
    return {
        "rows": len(rows_M),
        "removed": len(gone),
        "chunk_edges": chunks,
        "edges": len(edges["source"]),
        "zero_rows": np.flatnonzero(zeros_N[rows_M]).tolist(),
    }


def _promote(state: State, keep_N: Array) -> None:
    """Let the first copy that stays stand for a row that goes: it takes the row's vertex and its place in lists."""
    leaders = state.leaders_N
    copies = np.flatnonzero((leaders != np.arange(len(leaders))) & keep_N & ~keep_N[leaders])
    heirs, firsts = np.unique(leaders[copies], return_index=True)
    for old, heir in zip(heirs, copies[firsts], strict=True):
        for graph in state.graphs:
            if graph.rows_V is None:
                graph.rows_V = np.arange(state.num_rows, dtype=np.int32)
            at_old, at_heir = np.flatnonzero(graph.rows_V == old)[0], np.flatnonzero(graph.rows_V == heir)[0]
            graph.rows_V[at_old], graph.rows_V[at_heir] = heir, old
            for vectors in (graph.features, graph.originals):
                if vectors is not None:
                    vectors[at_old] = vectors[at_heir]
        leaders[leaders == old] = heir


def _survivors(graph: GraphState, state: State, keep_N: Array) -> Array:
    """The vertices that stay, in the order of their new numbers."""
    vertices = np.arange(state.num_rows)
    if graph.offsets is not None:
        vertices = np.lexsort((vertices, _cell_of_vertices(graph)))
    rows = graph.rows_V
    return vertices[keep_N[vertices if rows is None else rows[vertices]]]


def _cell_of_vertices(graph: GraphState) -> Array:
    assert graph.offsets is not None
    kept = np.repeat(np.arange(len(graph.offsets) - 1), np.diff(graph.offsets))
    return np.concatenate([kept, graph.cell_of_later])


def _write_graph(
    task: Task, folder: str, prefix: str, graph: GraphState, state: State, keep_N: Array, number_N: Array
) -> KeptGraph:
    """Write a graph's arrays in their new order."""
    vertex_M = _survivors(graph, state, keep_N)
    rows_V = graph.rows_V if graph.rows_V is not None else np.arange(state.num_rows, dtype=np.int32)
    total = state.num_rows
    new_V = np.full(total + 1, NO_NEIGHBOR, np.int32)  # the last place is that of no neighbour
    new_V[vertex_M] = np.arange(len(vertex_M), dtype=np.int32)
    stay_V = keep_N[rows_V]
    neighbors, similarities = graph.neighbors[:total], graph.similarities[:total]
    lost: Array = np.zeros(total, np.bool_)
    if not stay_V.all():
        tables = [table[:total] for table in (graph.priors, graph.listed) if len(table)]
        before = [neighbors.copy(), similarities.copy()] if len(tables) > 1 else None
        lost = drop_entries(neighbors, similarities, tables[0] if tables else np.empty((0, 0), np.uint16), stay_V)
        if before is not None:
            drop_entries(*before, tables[1], stay_V)
        changed = np.flatnonzero(lost & stay_V)
        graph.describe(changed, task.threads)
        for values, count in zip(graph.averages, AVERAGED, strict=False):
            listed = neighbors[changed], graph.features, changed
            values[changed] = averages_of(*listed, counts=(count,), threads=task.threads)[:, 0]
    kept: dict[str, Where] = {}

    def write(name: str, values: Array, convert: Callable[[Array], Array] | None = None) -> None:
        task.create_rows(f"{prefix}{name}", values.shape[1:], values.dtype, len(vertex_M))
        for begin, end in tile_bounds(0, len(vertex_M), file_rows(len(vertex_M))):
            block = values[vertex_M[begin:end]]
            rows = block if convert is None else convert(block)
            task.outputs += arrays.write_rows(task.folder, f"{prefix}{name}", begin, rows)
        kept[name] = (folder, f"{prefix}{name}")

    write("features", graph.features)
    write("neighbors", neighbors, lambda block: new_V[block])
    write("similarities", similarities)
    for name, table in (("profiles", graph.profiles), ("priors", graph.priors), ("listed", graph.listed)):
        if len(table):
            write(name, table)
    for values, count in zip(graph.averages, AVERAGED, strict=False):
        write(f"averages_{count}", values)
    if graph.originals is not None:
        write("originals", graph.originals)
    order = offsets = None
    if graph.rows_V is not None:
        task.write_npy(f"{prefix}row_of_vertex", number_N[rows_V[vertex_M]].astype(np.int32))
        order = (folder, f"{prefix}row_of_vertex")
    if graph.offsets is not None:
        counts = np.bincount(_cell_of_vertices(graph)[vertex_M], minlength=len(graph.offsets) - 1)
        task.write_npy(f"{prefix}cell_offsets", np.append(0, np.cumsum(counts)))
        offsets = (folder, f"{prefix}cell_offsets")
    metric = None
    at = state.kept.graphs[PREFIXES.index(prefix)].metric
    if at is not None:
        metric = _copy(task, state.root / at, f"{prefix}metric.safetensors", folder)
    return KeptGraph(kept, order, offsets, metric)


def _edges(state: State, vertex_M: Array, keep_N: Array) -> tuple[dict[str, Array], list[int]]:
    """All edges between vertices that stay, by new numbers, ordered; and how many each chunk of vertices owns."""
    new_V = np.full(state.num_rows, -1, np.int32)
    new_V[vertex_M] = np.arange(len(vertex_M), dtype=np.int32)

    def renumbered() -> Iterator[tuple[Array, ...]]:
        yield np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32)
        for a, b, similarities, scores in state.edges(("source", "target", "similarity", "score")):
            first, second = new_V[a], new_V[b]
            stay = (first >= 0) & (second >= 0)
            yield np.minimum(first, second)[stay], np.maximum(first, second)[stay], similarities[stay], scores[stay]

    columns = [np.concatenate(column) for column in zip(*renumbered(), strict=True)]
    order = np.argsort(columns[0].astype(np.int64) * state.num_rows + columns[1], kind="stable")
    names = ("source", "target", "similarity", "score")
    edges = {name: column[order] for name, column in zip(names, columns, strict=True)}
    chunks = np.bincount(edges["source"] // CHUNK_ROWS, minlength=-(-state.num_rows // CHUNK_ROWS))
    return edges, chunks.tolist()


def _write_rows(task: Task, state: State, rows_M: Array) -> None:
    """Write the ids and items of the rows that stay. Rows that the source gave no id have their number as one."""
    folders = [state.root / state.kept.rows, *(layer.folders[1] for layer in state.layers)]
    counts = [state.kept.num_rows, *(layer.num_rows for layer in state.layers)]
    columns: dict[str, Any] = {"id": state.ids.take(rows_M).values}
    items = take_joined([row_column(folder, "item") for folder in folders], counts, rows_M)
    if items is not None:
        columns["item"] = items
    task.write_table("rows", columns)


def _zeros(state: State) -> Array:
    """The rows without a direction."""
    found, start = [zero_rows(state.root / state.kept.rows)], state.kept.num_rows
    for layer in state.layers:
        found.append(zero_rows(layer.folders[1]) + start)
        start += layer.num_rows
    return np.concatenate(found)


def _copy(task: Task, source: Path, name: str, folder: str) -> str:
    """Copy a file of the full run as an output."""
    task.outputs.append(copy_atomic(source, task.folder / name))
    return f"{folder}/{name}"
