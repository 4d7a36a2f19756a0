"""``decisions.parquet``: what people decided about pairs of rows. Entries are added and never taken away.

An entry has a ``decision``, the ids ``a`` and ``b`` of two rows (what the source's column of ids says, else the number
of the row, as text), ``who``, ``when`` and on which ``run``. ``asked`` and ``chance`` tell why the pair was asked for
and how likely "same" was thought to be, if a program asked. ``a``, ``b`` and ``decision`` are needed, the rest may be
missing.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.errors import DataError
from engine.storage.manifest import write_atomic
from engine.storage.paths import check_file

DECISIONS_FILE = "decisions.parquet"  # of a run, where a review writes
Decided = Literal["same", "different", "confirmed", "unsure", "withdrawn"]
Asked = Literal["merge", "split", "sample"]
_SCHEMA = pa.schema(
    [
        ("decision", pa.string()),
        ("a", pa.string()),
        ("b", pa.string()),
        ("who", pa.string()),
        ("when", pa.timestamp("us", tz="UTC")),
        ("run", pa.string()),
        ("asked", pa.string()),
        ("chance", pa.float32()),
    ]
)
_NEEDED = ("decision", "a", "b")


@dataclass(frozen=True)
class Decision:
    """What was decided about rows ``a`` and ``b``, by their ids.

    ``same`` and ``different`` say whether both are one identity. ``confirmed``: likewise the same, as members of a
    cluster that was confirmed as a whole. ``unsure`` and ``withdrawn`` take back what was said of the pair before.
    """

    decision: Decided
    a: str
    b: str
    who: str | None = None
    when: datetime.datetime | None = None
    run: str | None = None
    asked: Asked | None = None
    chance: float | None = None


def read_decisions(path: str | Path) -> list[Decision]:
    """Read all entries, the oldest first. Raises ``DataError`` naming the entry, counted from 0, that is malformed."""
    try:
        with pa.OSFile(os.fsencode(check_file(Path(path)))) as opened:
            table = pq.read_table(opened)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a Parquet table of decisions ({error})") from None
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]}; decisions need {', '.join(_NEEDED)}")
    names = [name for name in _SCHEMA.names if name in table.column_names]
    try:
        columns = {name: table.column(name).cast(_SCHEMA.field(name).type).to_pylist() for name in names}
    except pa.ArrowException as error:
        raise DataError(f"{path}: a column is not of its type ({error}); expected {_SCHEMA}") from None
    entries = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for number, entry in enumerate(entries):
        _check(path, number, entry)
    return [Decision(**entry) for entry in entries]


def append_decisions(path: str | Path, added: Sequence[Decision]) -> None:
    """Add entries to the file, which is made if it is not there. It is replaced at once, whole or not at all."""
    place = Path(path)
    before = read_decisions(place) if place.exists() else []
    for number, each in enumerate(added):
        _check(path, len(before) + number, asdict(each))
    write_decisions(place, [*before, *added])


def write_decisions(path: Path, entries: Sequence[Decision]) -> None:
    """Write entries that are known to be whole in place of the file."""
    table = pa.Table.from_pylist([asdict(each) for each in entries], schema=_SCHEMA)
    write_atomic(path, lambda stream: pq.write_table(table, stream))


def find_rows(ids: Any, names: Sequence[str], num_rows: int, path: str) -> np.ndarray:
    """Find the rows (int64) that ids name. ``ids``: the source's column, an Arrow chunked array, or ``None``.

    Raises ``DataError`` for an id that no row has, and for one that two rows have.
    """
    if ids is None:
        for name in names:
            if not name.isascii() or not name.isdigit() or int(name) >= num_rows:
                raise DataError(f"{path}: names row {name!r}; expected the number of a row, 0 to {num_rows - 1}")
        return np.array([int(name) for name in names], np.int64)
    texts = ids.cast(pa.string())
    wanted = pa.array(names, pa.string())
    held = pc.is_in(texts, value_set=wanted)
    places = pc.indices_nonzero(held).to_numpy().astype(np.int64)
    found = dict[str, int]()
    for name, row in zip(texts.filter(held).to_pylist(), places.tolist(), strict=True):
        if name in found:
            raise DataError(f"{path}: names row {name!r}, but rows {found[name]} and {row} both have this id")
        found[name] = row
    for name in names:
        if name not in found:
            raise DataError(f"{path}: names row {name!r}, but no row has this id")
    return np.array([found[name] for name in names], np.int64)


def _check(path: str | Path, number: int, entry: dict[str, Any]) -> None:
    if entry["decision"] not in get_args(Decided):
        raise DataError(
            f"{path}: entry {number}: expected a decision of {', '.join(get_args(Decided))}, got {entry['decision']!r}"
        )
    if not entry["a"] or not entry["b"]:
        raise DataError(f"{path}: entry {number}: expected the ids of two rows, got {entry['a']!r} and {entry['b']!r}")
    if entry.get("asked") not in (None, *get_args(Asked)):
        raise DataError(
            f"{path}: entry {number}: expected asked to be one of {', '.join(get_args(Asked))} or nothing, "
            f"got {entry['asked']!r}"
        )


def find_text(texts: Any, wanted: str, most: int, *, whole: bool) -> list[int]:
    """Find up to ``most`` rows, ascending, whose text holds ``wanted`` in any case, or, if ``whole``, is ``wanted``."""
    column = texts.cast(pa.string())
    if whole:
        held = pc.equal(column, wanted)
    else:
        held = pc.match_substring(column, wanted, ignore_case=True)
    return [int(row) for row in pc.indices_nonzero(held).to_numpy()[:most]]
