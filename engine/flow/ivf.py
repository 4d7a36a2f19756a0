"""Mode ``ivf``: cells trained by k-means, and exact search within the cells that a row is near to."""

from __future__ import annotations

from engine.flow.search import Search
from engine.steps.knn import Assign, CellNeighbors, OrderCells, Quantiser, Truth, Vertices


def search_cells(search: Search) -> tuple[CellNeighbors, Truth | None]:
    """Train a quantiser, number the vertices by cell, and search the cells that each row probes."""
    config, n, prefix, vectors = search.config, search.num_rows, search.prefix, search.vectors
    cells = min(config.num_cells or max(1, round(1.3 * n**0.5)), n)
    quantiser = Quantiser(
        prefix=prefix,
        vectors=vectors,
        num_cells=cells,
        train_rows_per_cell=config.train_rows_per_cell or 64,
        seed=search.settings.seed,
    )
    assign = Assign(prefix=prefix, num_rows=n, vectors=vectors, quantiser=quantiser)
    order = OrderCells(prefix=prefix, num_rows=n, assign=assign, num_cells=cells)
    vertices = Vertices(
        prefix=prefix, num_rows=n, dim=vectors.dim, vectors=vectors, order=order, stored=search.stored_bytes
    )
    knn = CellNeighbors(
        prefix=prefix,
        num_rows=n,
        features=vertices,
        rows=search.rows,
        k=search.k,
        order=order,
        quantiser=quantiser,
        num_probes=min(config.num_probes or 32, cells),
    )
    return knn, search.truth(vertices, order)
