"""The first minute: what is installed, what is missing, and where numba may keep its code."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine import installation
from engine.control_groups import core_quota
from engine.errors import DataError
from engine.storage.places import Place
from tests.support import ROOT


def test_hints_name_the_installed_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "distribution", lambda: "a-fork")
    assert installation.install_hint("ray") == "pip install 'a-fork[ray]'"


def test_what_there_is_can_be_listed() -> None:
    public = {name for name in dir(engine) if not name.startswith("_")}
    assert public == {"ClusterResult", "cluster", "compare", "evaluate", "fetch", "graph_propagation", "open", "train"}


def test_help_and_import_load_nothing_heavy() -> None:
    program = "import sys, engine, engine.cli.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numba", "numpy", "pyarrow", "zarr", "faiss", "ray", "pydantic"} & set(done.stdout.split())


def test_numba_gets_a_folder_of_this_user_alone_where_it_would_find_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    installation.let_numba_cache()
    assert "NUMBA_CACHE_DIR" not in os.environ  # the package's folder can be written
    monkeypatch.setattr(installation.os, "access", lambda path, mode: False)
    monkeypatch.setattr(installation, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(installation, "mkdtemp", lambda prefix: f"{tmp_path}/other")
    taken = tmp_path / f"asterism-numba-{os.getuid()}"
    for _ in range(2):
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
        installation.let_numba_cache()
        assert os.environ["NUMBA_CACHE_DIR"] == str(taken)
        assert stat.S_IMODE(taken.stat().st_mode) == 0o700
    taken.chmod(0o777)  # others may have put code there
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    installation.let_numba_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == f"{tmp_path}/other"


GROUP = "sys/fs/cgroup"
QUOTAS = {
    "none": ({f"{GROUP}/cpu.max": "max 100000"}, None),
    "version 2": ({f"{GROUP}/cpu.max": "150000 100000"}, 2),
    "nested": ({"proc/self/cgroup": "0::/a/b\n", f"{GROUP}/a/cpu.max": "50000 100000"}, 1),
    "version 1": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/pod\n",
            f"{GROUP}/cpu,cpuacct/pod/cpu.cfs_quota_us": "300000",
            f"{GROUP}/cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
        },
        3,
    ),
    "version 1 without a quota": ({"proc/self/cgroup": "4:cpu:/\n", f"{GROUP}/cpu/cpu.cfs_quota_us": "-1"}, None),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quota_of_cores(tmp_path: Path, name: str) -> None:
    files, expected = QUOTAS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert core_quota(tmp_path) == expected


def test_a_file_system_without_locks_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(DataError, match=r"this file system has no file locks .*choose a folder on another"),
        Place(tmp_path / "run").locked(),
    ):
        pass
