"""Labels and clusters of a run, written to a file."""

from __future__ import annotations

from pathlib import Path

from engine.collection.versions import finished_updates
from engine.commands.collection_tables import CollectionTables
from engine.commands.run_folder import (
    labels_of,
    open_run,
    places_read,
    run_labels,
    second_labels,
    stage_folder,
    vectors_folder,
)
from engine.errors import ConfigError, DataError
from engine.evaluation.explain import as_columns
from engine.steps.explain import ROW_COLUMNS, read_clusters
from engine.steps.ingest import row_column
from engine.storage.context import read_npy
from engine.storage.formats.export import TABLES, choose_format, write_labels, write_table
from engine.storage.outputs import out_file, write_out


def export(
    root: str | Path, out: str | Path, file_format: str | None = None, *, clusters: bool = False, level: int = 1
) -> str:
    """Write a run's labels in source order to a file or URL, which is returned as an absolute one.

    ``file_format``: npy, txt or meta, labels alone; parquet or csv, with all that is known of the rows; by default what
    the name's ending says, else npy. Columns: the source's ids and items, those of
    ``engine.evaluation.explain.RowTable``, and ``level_2``, the second answer, where the run has one. With ``clusters``
    a table of one row per cluster instead, columns as ``ClusterTable``. ``level`` 2: the labels of the second answer
    alone, no table. Raises ``ConfigError`` for a place that cannot be written or that the run reads, and for a name
    that ends in another format; ``DataError`` if the run is not finished or has no such level.
    """
    kind = choose_format(str(out), file_format, *([TABLES] if clusters else []))
    here = open_run(root)
    place = out_file(out, never=places_read(here, root))
    if level != 1 and kind in TABLES:
        raise ConfigError("tables have both levels (column level_2): leave out the level, or write .npy, .txt or .meta")
    if finished_updates(here) and level == 1:
        return _export_collection(here, place, kind, clusters=clusters)
    labels = labels_of(here, root) if level == 1 else run_labels(root, level)
    if kind not in TABLES:
        write_out(place, lambda path: write_labels(path, labels, kind))  # type: ignore[arg-type]
        return place
    tables = ["clusters"] if clusters else [f"{name}.npy" for name in ROW_COLUMNS]
    explained = stage_folder(here, "explain", *tables)
    if explained is None:
        raise DataError(f"{root} is not finished yet: asterism resume {root}")
    if clusters:
        write_out(place, lambda path: write_table(path, as_columns(read_clusters(explained)), kind))
        return place
    vectors = vectors_folder(here, "rows")
    known = {"id": row_column(vectors, "id"), "item": row_column(vectors, "item")}
    columns = {name: column for name, column in known.items() if column is not None}
    columns |= {name: read_npy(explained, name) for name in ROW_COLUMNS}
    if (second := second_labels(here)) is not None:
        columns["level_2"] = second
    for name in ROW_COLUMNS:
        if columns[name].shape != labels.shape:
            raise DataError(
                f"{explained / name}.npy: expected a value for each of {len(labels):,} rows, got an array of shape "
                f"{columns[name].shape}; asterism resume {root} computes it again"
            )
    write_out(place, lambda path: write_labels(path, labels, kind, columns))  # type: ignore[arg-type]
    return place


def _export_collection(here: Path, place: str, kind: str, *, clusters: bool) -> str:
    """Write what the last version of a collection says."""
    collection = CollectionTables(here)
    if clusters:
        write_out(place, lambda path: write_table(path, collection.clusters(), kind))
        return place
    columns = {} if kind not in TABLES else collection.rows()
    columns.pop("cluster", None)
    write_out(place, lambda path: write_labels(path, collection.labels, kind, columns))  # type: ignore[arg-type]
    return place
