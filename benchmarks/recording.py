"""One home for benchmark records: results with the hardware, versions and settings they came from."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.commands.machine import hardware, versions

RECORDS = Path(__file__).parent / "records"
_IN_PAGES = ("accuracy", "without_labels", "installs", "sensitivity")  # of docs


def write_record(name: str, settings: dict[str, Any], rows: Any) -> Path:
    """Write ``benchmarks/records/NAME.json``, all of it measured now."""
    return _write({"benchmark": name, **_circumstances(), "settings": settings, "results": rows})


def read_rows(name: str) -> list[dict[str, Any]]:
    """The rows that ``record_row`` has recorded under this name."""
    path = RECORDS / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["results"] if path.exists() else []
    return rows


def record_row(
    name: str, settings: dict[str, Any], row: dict[str, Any], key: tuple[str, ...], order: Callable[[Any], Any]
) -> Path:
    """Add a row measured now to ``benchmarks/records/NAME.json``, in place of one with the same values of ``key``.

    Each row says when, on what and with which versions it was measured.
    """
    rows = [other for other in read_rows(name) if any(other[part] != row[part] for part in key)]
    rows = sorted([*rows, {**row, **_circumstances()}], key=order)
    return _write({"benchmark": name, "settings": settings, "results": rows})


def _circumstances() -> dict[str, Any]:
    return {"date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": versions()}


def _write(record: dict[str, Any]) -> Path:
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{record['benchmark']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {path}")
    if record["benchmark"] in _IN_PAGES:
        import_module("results_pages").write()
    return path
