"""Mode ``partition``: passes over new cells, until a check finds that recall suffices."""

from __future__ import annotations

from typing import Any

from engine.flow.search import Search
from engine.steps.ingest import Vectors
from engine.steps.knn import Truth
from engine.steps.passes import (
    FOUR_PASSES_ROWS,
    MOST_CELLS,
    Check,
    CodedVertices,
    Join,
    JoinedNeighbors,
    Near,
    OrderProbed,
    Probes,
    SortedCodes,
    TrainedCells,
    listed_neighbors,
)


def search_passes(search: Search) -> tuple[JoinedNeighbors, Truth | None]:
    """Join the neighbours that each pass finds; return them with similarities, and what recall is estimated from.

    The first pass numbers the vertices. Each later pass is left out if the check before it found enough neighbours.
    """
    config, n, prefix = search.config, search.num_rows, search.prefix
    most = config.max_passes or (4 if n <= FOUR_PASSES_ROWS else 3)
    probes = _probe(search, search.vectors, 1, None)
    order = OrderProbed(prefix=prefix, num_rows=n, probes=probes)
    vertices = CodedVertices(
        prefix=prefix,
        num_rows=n,
        dim=search.vectors.dim,
        vectors=search.vectors,
        order=order,
        stored=search.stored_bytes,
    )
    near = Near(
        prefix=prefix, num_rows=n, coded=vertices, probes=probes, order=order, joined=None, k=search.k, scratch=True
    )
    joined = Join(prefix=prefix, num_rows=n, vertices=vertices, near=near, probes=probes, scratch=True)
    truth = search.truth(vertices, order) if most > 1 else None
    check: Check | None = None
    for number in range(2, most + 1):
        if truth is not None:
            check = Check(
                prefix=prefix,
                joined=joined,
                vertices=vertices,
                truth=truth,
                recall=config.recall,
                unless=check,
                instead=check,
            )
        probes = _probe(search, vertices, number, check)
        coded = SortedCodes(prefix=prefix, num_rows=n, vertices=vertices, probes=probes, scratch=True, unless=check)
        near = Near(
            prefix=prefix,
            num_rows=n,
            coded=coded,
            probes=probes,
            order=None,
            joined=joined,
            k=search.k,
            scratch=True,
            unless=check,
        )
        joined = Join(
            prefix=prefix,
            num_rows=n,
            vertices=vertices,
            near=near,
            probes=probes,
            scratch=True,
            unless=check,
            instead=joined if check else None,
        )
    knn = JoinedNeighbors(
        prefix=prefix, num_rows=n, features=vertices, rows=search.rows, k=search.k, joined=joined, order=order
    )
    return knn, truth or search.truth(vertices, order)


def _probe(search: Search, vectors: Vectors[Any], number: int, check: Check | None) -> Probes:
    """Train the cells of a pass, and find the cells nearest to each of the ``vectors``."""
    config, n = search.config, search.num_rows
    num_cells = min(config.num_cells or min(-(-n // listed_neighbors(search.k)), MOST_CELLS), n)
    cells = TrainedCells(
        prefix=search.prefix,
        vectors=vectors,
        of_pass=number,
        num_cells=num_cells,
        train_rows_per_cell=config.train_rows_per_cell or 8,
        seed=search.settings.seed,
        unless=check,
    )
    return Probes(
        prefix=search.prefix,
        num_rows=n,
        vectors=vectors,
        cells=cells,
        num_probes=min(config.num_probes or 4, num_cells),
        scratch=True,
        unless=check,
    )
