"""Wide tables, with a column for each dimension (``f0`` ... ``f767``), shown as tables with one column of vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import DataError
from engine.storage.formats.parquet_arrow import TableFile

_NUMBERED = re.compile(r"(.*?)(\d+)")
_LEAST = 2  # columns


def wide_columns(where: object, schema: pa.Schema, prefix: str | None = None) -> tuple[str, list[str]] | None:
    """Find the columns that are the dimensions of a wide table: a name for them all, and theirs in numeric order.

    They are columns of numbers named by a prefix and a number without gaps, ``f0, f1, ...``, ``emb_1, emb_2, ...`` or
    ``0, 1, ...``; the name of the first is ``f*``. Failing that, a table of floats alone. ``prefix`` chooses among
    several. ``None`` if there are none. Raises ``DataError`` for a gap, and if several prefixes fit.
    """
    prefix = prefix if prefix is None else prefix.removesuffix("*")
    groups: dict[str, dict[int, str]] = {}
    for field in schema:
        match = _NUMBERED.fullmatch(field.name)
        if match and _is_number(field.type):
            groups.setdefault(match[1], {})[int(match[2])] = field.name
    groups = {name: held for name, held in groups.items() if len(held) >= _LEAST and (prefix is None or name == prefix)}
    if len(groups) > 1:
        floats = [n for n, held in groups.items() if all(_is_float(schema.field(c).type) for c in held.values())]
        groups = {name: groups[name] for name in floats} if len(floats) == 1 else groups
    if len(groups) > 1:
        shown = ", ".join(f"{name!r} ({len(held)} columns)" for name, held in groups.items())
        raise DataError(f"{where}: several groups of numbered columns: {shown}; choose one with --column PREFIX")
    if not groups:
        names = schema.names
        plain = prefix is None and len(names) >= _LEAST and len(set(names)) == len(names)
        return ("*", names) if plain and all(_is_float(field.type) for field in schema) else None
    ((name, held),) = groups.items()
    missing = set(range(min(held), max(held) + 1)) - set(held)
    if missing or min(held) > 1:
        first = f"{name}{min(missing) if missing else 0}"
        raise DataError(
            f"{where}: columns {held[min(held)]} to {held[max(held)]} look like a vector, but {first} is missing; "
            f"add it, or put the vectors into one column of lists"
        )
    return f"{name}*", [held[number] for number in sorted(held)]


def as_wide(tables: Sequence[TableFile], column: str | None) -> Sequence[TableFile]:
    """Show wide tables as tables with a column of vectors, and others, or those that have ``column``, as they are."""
    schema = tables[0].schema
    if column in schema.names or (column is None and any(_is_vector(field.type) for field in schema)):
        return tables
    found = wide_columns(tables[0].path, schema, column)
    if found is None:
        return tables
    for table in tables:
        if missing := set(found[1]) - set(table.schema.names):
            raise DataError(f"{table.path}: has no column {min(missing)!r}, which {tables[0].path} has")
    return [WideTable(table, *found) for table in tables]


def with_wide_column(table: pa.Table, where: object) -> pa.Table:
    """Return a table in memory with the dimensions of a wide table as one column; another table as it is."""
    if any(_is_vector(field.type) for field in table.schema) or (found := wide_columns(where, table.schema)) is None:
        return table
    prefix, names = found
    return pa.table({prefix: _join([table.column(name).combine_chunks() for name in names])})


class WideTable(TableFile):
    """A file of columns whose dimensions are shown as one more column, ``prefix``, of vectors."""

    def __init__(self, table: TableFile, prefix: str, names: list[str]) -> None:
        self.path, self.num_rows = table.path, table.num_rows
        self.vector, self._names, self._table = prefix, names, table
        rest = [field for field in table.schema if field.name not in set(names)]
        self.schema = pa.schema([pa.field(prefix, pa.list_(pa.float64(), len(names))), *rest])

    @property
    def sequential(self) -> bool:  # type: ignore[override]
        return self._table.sequential

    def frames(self, columns: list[str], start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        if columns != [self.vector]:
            yield from self._table.frames(columns, start)
            return
        for row, batch in self._table.frames(self._names, start):
            batch.validate(full=True)
            yield row, pa.record_batch({self.vector: _join([batch.column(name) for name in self._names])})


def _join(columns: list[Any]) -> pa.Array:
    """Put columns of numbers side by side, as fixed-size lists; a missing value is NaN."""
    values_ND = np.empty((len(columns[0]), len(columns)))
    for dimension, column in enumerate(columns):
        values_ND[:, dimension] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return pa.FixedSizeListArray.from_arrays(pa.array(values_ND.ravel()), len(columns))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind))


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType))
