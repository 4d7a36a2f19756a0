"""One home for benchmark records: results with the hardware, versions and settings they came from."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from engine.summary import hardware, versions

RECORDS = Path(__file__).parent / "records"


def write_record(name: str, settings: dict[str, Any], rows: Any) -> Path:
    """Write ``benchmarks/records/NAME.json``."""
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{name}.json"
    record = {
        "benchmark": name, "date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": versions(),
        "settings": settings, "results": rows,
    }  # fmt: skip
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {path}")
    return path
