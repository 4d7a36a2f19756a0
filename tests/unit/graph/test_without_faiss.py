"""faiss is loaded only where it is called, so that all else works where it is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.process.import_path import child_environment
from tests.support.vectors import make_blobs

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder


class Without(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "faiss":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Without())
sys.argv[0] = "asterism"
from engine.__main__ import main

main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "code", "said"), [("exact", 0, "clusters"), ("ivf", 2, "[cpu]'")])
def test_a_run_needs_faiss_in_one_mode_alone(tmp_path: Path, mode: str, code: int, said: str) -> None:
    np.save(tmp_path / "rows.npy", make_blobs(120, 8))
    given = ["--features", str(tmp_path / "rows.npy"), "--out", str(tmp_path / "run"), "--method", "cosine"]
    done = asterism("run", *given, "--set", f"knn.mode={mode}", "--set", "knn.k=5")
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.slow
def test_the_doctor_tells_that_it_is_missing() -> None:
    done = asterism("doctor")
    assert done.returncode == 0, done.stderr
    assert "[cpu]')" in " ".join(done.stdout.split())


def asterism(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that has no faiss."""
    command = [sys.executable, "-P", "-c", WITHOUT, *arguments]
    return subprocess.run(command, env=child_environment(), capture_output=True, text=True)
