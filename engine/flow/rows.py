"""The source's rows: read into the run by a step, or lying in a store already."""

from __future__ import annotations

from engine.settings import Settings
from engine.steps.ingest import Ingest, Rows, StoredRows
from engine.steps.source import Source


def source_rows(source: Source, settings: Settings) -> Rows:
    """The rows of a source; a store holds them already."""
    if source.store:
        return StoredRows(num_rows=source.num_rows, dim=source.dim, folder=source.store, path=source.path)
    return ingest(source, settings)


def ingest(source: Source, settings: Settings) -> Ingest:
    """The step that reads, checks and normalises the rows of a source."""
    return Ingest(
        num_rows=source.num_rows,
        dim=source.dim,
        dtype=settings.ingest.dtype,
        zero_vectors=settings.ingest.zero_vectors,
        bad_rows=settings.ingest.bad_rows,
        item_bytes=source.item_bytes,
        spec=dict(source.spec),
        source_version=source.version,
        path=source.path,
    )
