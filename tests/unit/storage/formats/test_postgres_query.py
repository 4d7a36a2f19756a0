"""Rows of a PostgreSQL query, from a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine import api
from engine.errors import DataError
from engine.storage.formats import postgres_query
from engine.storage.formats.postgres_query import _vectors, fetch_query
from engine.storage.formats.registry import open_source


def test_vectors_are_parsed_as_the_server_writes_them() -> None:
    assert _vectors(["[1,2.5]", None, "[-3e-05,0]"]).to_pylist() == [[1, 2.5], None, [np.float32(-3e-05), 0]]


@pytest.fixture
def database(postgres: None) -> Any:
    """A connection to the tests' server, whose changes are not kept unless committed."""
    import psycopg

    with psycopg.connect() as connected:
        yield connected


def test_rows_come_in_the_order_and_types_of_the_query(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_query, "_ROWS_AT_ONCE", 16)  # several blocks, of which the first has no text
    database.execute("CREATE SEQUENCE counter")
    database.execute("CREATE TABLE rows (id bigint, embedding real[], name text, key uuid, price numeric, kept bool)")
    vectors = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    for number, vector in enumerate(vectors):
        name = None if number < 20 else f"näme\n{number}"
        given = [number, vector.tolist(), name, f"00000000-0000-0000-0000-{number:012}", number / 4, number % 2 == 0]
        database.execute("INSERT INTO rows VALUES (%s, %s, %s, %s, %s, %s)", given)
    database.commit()
    try:
        out = tmp_path / "rows.parquet"
        assert fetch_query("SELECT * FROM rows ORDER BY id DESC", out) == 50
        table = pq.read_table(out)
        assert table["id"].to_pylist() == list(range(49, -1, -1))
        assert table["name"].to_pylist()[-21:] == ["näme\n20", *[None] * 20]
        assert table["key"][0].as_py() == "00000000-0000-0000-0000-000000000049"
        assert (table["price"][1].as_py(), table["kept"][1].as_py()) == ("12", True)
        source = open_source(out)
        np.testing.assert_array_equal(source.read(0, 50), vectors[::-1])
        ids = source.ids()
        assert ids is not None
        assert ids.to_pylist()[0] == 49
        with pytest.raises(DataError, match="no rows"):
            fetch_query("SELECT * FROM rows WHERE id < 0", out)
        with pytest.raises(DataError, match="read-only transaction"):
            fetch_query("SELECT nextval('counter')", out)
    finally:
        database.execute("DROP TABLE rows; DROP SEQUENCE counter")
        database.commit()


def test_what_the_server_refuses_is_one_sentence(postgres: None, tmp_path: Path) -> None:
    for query, said in (("SELECT nothing FROM nowhere", "nowhere"), ("SELECT 1 AS a, 2 AS a", "columns named a")):
        with pytest.raises(DataError, match=said):
            fetch_query(query, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="PostgreSQL"):
        fetch_query("SELECT 1", tmp_path / "x.parquet", "host=/nowhere")
    assert not list(tmp_path.iterdir())


def test_vectors_of_pgvector(database: Any, tmp_path: Path) -> None:
    if not database.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchall():
        pytest.skip("the PostgreSQL of this machine has no pgvector")
    database.execute("CREATE EXTENSION vector")
    database.execute("CREATE TABLE held (id text, embedding vector(3))")
    database.execute("INSERT INTO held VALUES ('a', '[1,2,3]'), ('b', NULL), ('c', '[0.5,-1e-9,7]')")
    database.commit()
    out = tmp_path / "held.parquet"
    assert api.fetch("SELECT id, embedding FROM held ORDER BY id", out) == str(out)
    assert pq.read_table(out).to_pylist() == [
        {"id": "a", "embedding": [1, 2, 3]},
        {"id": "b", "embedding": None},
        {"id": "c", "embedding": [0.5, np.float32(-1e-9), 7]},
    ]
