"""The KNN graph of the source's rows, and the graphs of a committee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.errors import ConfigError, DataError
from engine.flow.ivf import search_cells
from engine.flow.passes import search_passes
from engine.flow.rows import source_rows
from engine.flow.search import Search
from engine.methods.base import Graph
from engine.settings import Settings
from engine.steps.ingest import Rows, StoredRows
from engine.steps.knn import ExactNeighbors, ImportedGraph, Knn, Recall, Truth
from engine.steps.labels import OutsideFile
from engine.steps.metric import Project
from engine.steps.source import Source
from engine.storage.cache import local_copy
from engine.storage.formats.knn_graph import open_knn_graph

MAX_ROWS = 2**31  # that int32 ids can number


def make_graph(
    rows: Rows,
    settings: Settings,
    knn_graph: OutsideFile | None = None,
    projected: Project | None = None,
    prefix: str = "",
) -> Graph:
    """The KNN graph of the source's rows: of the vectors as they are, or ``projected`` into a learned metric.

    ``knn_graph``: a graph made elsewhere, whose lists are taken instead of a search.
    """
    config, n = settings.knn, rows.num_rows
    if n >= MAX_ROWS:
        raise DataError(f"{rows.path}: {n:,} rows: neighbours are int32 ids, so {MAX_ROWS - 1:,} rows are the most")
    exact = config.mode == "exact" or (config.mode == "auto" and n <= config.exact_rows)
    originals = rows if projected is not None else None
    if projected is not None and knn_graph is None and not exact:  # vertices hold the same in another order
        projected = replace(projected, scratch=True)
    search = Search(rows, projected or rows, settings, choose_k(settings, n), prefix)
    found: tuple[Knn, Truth | None]
    if knn_graph is not None:
        found = _import(search, knn_graph)
    elif exact:
        found = _search_all(search)
    else:
        found = search_cells(search) if config.mode == "ivf" else search_passes(search)
    knn, truth = found
    recall = Recall(prefix=prefix, knn=knn, truth=truth) if truth else None
    return Graph(
        rows=rows, features=knn.features, knn=knn, order=knn.order, originals=originals, recall=recall, prefix=prefix
    )


def make_committee(committee: Sequence[Source], settings: Settings, num_rows: int) -> tuple[Graph, ...]:
    """A KNN graph of each further source of the same rows; names of its steps begin with the member's number."""
    settings = settings.model_copy(update={"knn": settings.knn.model_copy(update={"recall_samples": 0})})
    graphs = []
    for number, source in enumerate(committee, start=1):
        if source.num_rows != num_rows:
            raise DataError(
                f"{source.path}: {source.num_rows:,} rows, the base has {num_rows:,}; expected the same rows"
            )
        prefix, rows = f"member_{number}_", source_rows(source, settings)
        if not isinstance(rows, StoredRows):
            rows = replace(rows, prefix=prefix, source=source.digest)
        graphs.append(make_graph(rows, settings, prefix=prefix))
    return tuple(graphs)


def choose_k(settings: Settings, num_rows: int) -> int:
    """K: the default shrinks to N - 1; the list of a row alone stays empty.

    Raises ``ConfigError`` if N rows have no K neighbours and K was asked for.
    """
    asked = "knn" in settings.model_fields_set and "k" in settings.knn.model_fields_set
    if asked and settings.knn.k >= num_rows:
        raise ConfigError(f"knn.k = {settings.knn.k} needs more than {settings.knn.k} rows, the source has {num_rows}")
    return min(settings.knn.k, max(num_rows - 1, 1))


def _import(search: Search, knn_graph: OutsideFile) -> tuple[ImportedGraph, Truth | None]:
    """Take the neighbours that a graph made elsewhere lists, the first K of each row."""
    width = open_knn_graph(local_copy(knn_graph.path), search.num_rows).k
    search = replace(search, k=min(search.k, width))
    knn = ImportedGraph(
        prefix=search.prefix,
        num_rows=search.num_rows,
        features=search.vectors,
        rows=search.rows,
        k=search.k,
        digest=knn_graph.digest,
        width=width,
        path=knn_graph.path,
        path_version=knn_graph.version,
    )
    return knn, search.truth(search.vectors, None)


def _search_all(search: Search) -> tuple[ExactNeighbors, Truth | None]:
    """Compare each row with all others."""
    knn = ExactNeighbors(
        prefix=search.prefix, num_rows=search.num_rows, features=search.vectors, rows=search.rows, k=search.k
    )
    return knn, search.truth(search.vectors, None)
