"""Lance datasets, folders that the library of that name reads: the extra ``lance``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.errors import DataError, DependencyMissing, EngineError
from engine.installation import install_hint
from engine.storage.formats.parquet_arrow import TableFile
from engine.storage.paths import check_file, lies_there

_BATCH_ROWS = 8192


def is_lance(path: Path) -> bool:
    """Tell whether a folder is a Lance dataset."""
    return path.is_dir() and lies_there(path / "_versions")


def lance_files(path: Path) -> list[Path]:
    """List all files of a dataset by name; a new version adds some, so that the source counts as another."""
    return sorted(file for file in path.rglob("*") if file.is_file())


class LanceTable(TableFile):
    """One fragment of a dataset's last version, rows in their order; ``path`` is its largest file."""

    def __init__(self, root: Path, fragment: Any) -> None:
        held = [root / "data" / file.path for file in fragment.data_files()]
        self.path = max(held, key=lambda file: check_file(file).stat().st_size)
        self.schema = fragment.schema
        self.num_rows = int(fragment.count_rows())
        self._fragment = fragment

    def frames(self, columns: list[str], start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        row, rows = start, self._fragment.scanner(columns=columns, offset=start, batch_size=_BATCH_ROWS)
        for batch in rows.to_batches():
            yield row, batch
            row += batch.num_rows


def open_lance(path: Path) -> list[LanceTable]:
    """Open the fragments of a dataset's last version. Raises ``DependencyMissing`` without the library."""
    try:
        library = import_module("lance")
    except ImportError:
        raise DependencyMissing(f"{path}: reading Lance needs pylance: {install_hint('lance')}") from None
    try:
        tables = [LanceTable(path, fragment) for fragment in library.dataset(str(path)).get_fragments()]
    except EngineError:
        raise
    except Exception as error:  # its errors are of many kinds
        raise DataError(f"{path}: cannot be read as a Lance dataset: {error}") from None
    if not tables:
        raise DataError(f"{path}: holds no rows; there is nothing to cluster")
    return tables
