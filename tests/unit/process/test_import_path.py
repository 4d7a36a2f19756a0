"""Modules of the current folder do not run: not in the command, not in what it starts, not in jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.api import Request
from engine.commands.apart import execute_apart
from engine.commands.resources import Resources
from engine.errors import EngineError
from engine.process import import_path
from tests.support import ROOT
from tests.support.vectors import make_blobs

STARTED = "import sys; sys.argv[0] = 'asterism'; sys.path.pop(0); from engine.__main__ import main; main()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules of known names that leave a mark when they run, and vectors."""
    for name in ("psutil", "numpy", "json", "sitecustomize", "engine"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\nraise SystemExit(9)")
    np.save(tmp_path / "rows.npy", make_blobs(120, 8))
    return tmp_path


def run(folder: Path, *command: str, path: str = str(ROOT)) -> str:
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert not (folder / "ran").exists()
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command(folder: Path) -> None:
    """As the console script starts it: the script's folder is not the current one."""
    assert "memory free" in run(folder, "-c", STARTED, "doctor")


@pytest.mark.slow
def test_what_a_comparison_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child runs the engine, which refuses what it is asked for; no module of the current folder runs."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    with pytest.raises(EngineError, match=r"none\.npy"):
        execute_apart("run", folder / "out", Request(features="none.npy"), Resources(), progress=False)
    assert not (folder / "ran").exists()


@pytest.mark.slow
def test_a_job(folder: Path) -> None:
    run(folder, str(ROOT / "jobs/cluster.py"), "--features", "rows.npy", "--out", "out", "--method", "cosine",
        "--set", "knn.k=5")  # fmt: skip
    assert (folder / "out/run.json").exists()


def test_a_child_finds_this_engine_and_not_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for held in ("", os.pathsep, f"{os.pathsep}/somewhere{os.pathsep}"):
        monkeypatch.setenv("PYTHONPATH", held)
        environment = import_path.child_environment()
        assert "" not in environment["PYTHONPATH"].split(os.pathsep)
    code = "import engine, psutil, numpy, sys; print(engine.__file__)"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parents[1] == ROOT
    assert not (folder / "ran").exists()


def test_an_installed_engine_needs_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_path, "_ENGINE", Path("/usr/lib/python3/site-packages"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert import_path.needed_path() == []
    assert "PYTHONPATH" not in import_path.child_environment()
