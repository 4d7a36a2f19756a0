"""Rows that a PostgreSQL query gives, pgvector's vectors among them, as a Parquet file: the extra ``pgvector``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import DataError, DependencyMissing
from engine.installation import install_hint
from engine.storage.formats.export import stream_table

_ROWS_AT_ONCE = 4_096
_VECTORS = ("vector", "halfvec")  # of pgvector
_KINDS: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "int2": pa.int64(), "int4": pa.int64(), "int8": pa.int64(), "float4": pa.float32(),
    "float8": pa.float64(), "bytea": pa.binary(), "_float4": pa.list_(pa.float32()), "_float8": pa.list_(pa.float64()),
}  # fmt: skip


def fetch_query(query: str, out: Path, connection: str = "") -> int:
    """Stream what a query gives into the Parquet file ``out``, and return how many rows that are.

    ``connection``: libpq's words or URL; what they leave out, libpq takes from its environment and files (``PGHOST``,
    ``PGSERVICE``, ``~/.pgpass``). The rows come by a cursor of the server, a few thousand at a time, in one read-only
    transaction. Vectors, half vectors and arrays of floats become lists, numbers and bytes what they are, all else
    text. Raises ``DataError`` with what the server says, or if there are no rows, ``DependencyMissing``.
    """
    try:
        driver = import_module("psycopg")
    except ImportError:
        raise DependencyMissing(f"reading PostgreSQL needs psycopg: {install_hint('pgvector')}") from None
    try:
        with driver.connect(connection, application_name="asterism") as database:
            database.read_only = True
            with database.cursor(name="asterism") as cursor:
                cursor.execute(query)
                return stream_table(out, _blocks(database, cursor))
    except driver.Error as error:
        raise DataError(f"PostgreSQL: {' '.join(str(error).split())}") from None


def _blocks(database: Any, cursor: Any) -> Iterator[dict[str, pa.Array]]:
    columns = cursor.description
    names = [column.name for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"PostgreSQL: the query gives several columns named {twice}; name them apart with AS")
    with database.cursor() as asking:
        oids = sorted({column.type_code for column in columns})
        found = asking.execute("SELECT oid::int8, typname FROM pg_type WHERE oid = ANY(%s)", [oids])
        types = dict(found.fetchall())
    kinds = [types.get(column.type_code, "text") for column in columns]
    as_text = import_module("psycopg.types.string").TextLoader
    for column, kind in zip(columns, kinds, strict=True):
        if kind not in _KINDS:
            cursor.adapters.register_loader(column.type_code, as_text)
    rows = cursor.fetchmany(_ROWS_AT_ONCE)
    while rows:
        values = zip(*rows, strict=True)
        yield {name: _array(held, kind) for name, kind, held in zip(names, kinds, values, strict=True)}
        rows = cursor.fetchmany(_ROWS_AT_ONCE)


def _array(values: Sequence[Any], kind: str) -> pa.Array:
    if kind in _VECTORS:
        return _vectors(values)
    return pa.array(values, _KINDS.get(kind, pa.string()))


def _vectors(texts: Sequence[str | None]) -> pa.Array:
    """Parse vectors as the server writes them, ``[1,2.5]``; a missing one stays missing."""
    rows = [np.fromstring("" if text is None else text[1:-1], np.float32, sep=",") for text in texts]
    ends = pa.array(np.cumsum([0, *map(len, rows)]), pa.int32())
    missing = pa.array([text is None for text in texts])
    return pa.ListArray.from_arrays(ends, pa.array(np.concatenate(rows)), mask=missing)
