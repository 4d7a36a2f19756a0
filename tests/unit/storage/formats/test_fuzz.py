"""A short round of the readers' fuzzer; ``benchmarks/fuzz.py`` makes 10,000 mutations of each format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

FUZZ = ROOT / "benchmarks" / "fuzz.py"


@pytest.mark.slow
def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(FUZZ), "--mutations", "100", "--no-record", "--folder", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=FUZZ.parents[1], timeout=300)
    failures = tmp_path / "failures.jsonl"
    assert found.returncode == 0, found.stdout + found.stderr + (failures.read_text() if failures.exists() else "")
    assert found.stdout.count("mutations 100") == found.stdout.count("format ") > 20
