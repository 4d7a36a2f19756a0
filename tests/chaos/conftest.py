"""What the chaos tests compare with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import killing


@pytest.fixture(scope="session")
def undisturbed(blobs_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed, on the local executor."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    process = killing.start(blobs_path, root)
    process.join()
    assert process.exitcode == 0
    return root
