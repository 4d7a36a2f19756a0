"""What the chaos tests compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import killing


@pytest.fixture(scope="session")
def undisturbed(blobs_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed, on the local executor."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    process = killing.start(blobs_path, root)
    process.join()
    assert process.exitcode == 0
    return root
