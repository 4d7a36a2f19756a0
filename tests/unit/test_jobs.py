"""Jobs on this machine: what they print, leave, and end with."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import api
from engine.errors import DataError, TaskFailed
from tests.support import ROOT

CONFIG = [
    "--config",
    str(ROOT / "cluster_configs" / "laptop.yaml"),
    "--set",
    "knn.k=10",
    "--set",
    "knn.recall_samples=0",
]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a job's ``main`` with arguments."""
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))

    def run(name: str, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *CONFIG, *map(str, arguments)])
        return int(importlib.import_module(name).main())

    return run


def test_train_then_cluster_then_again(job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.make_standin(tmp_path / "data", 30, 1)
    given = ("--features", tmp_path / "data/features.bin", "--dim", 256, "--labels", tmp_path / "data/labels.meta")
    assert job("train", *given, "--method", "single_linkage", "--out", tmp_path / "model") == 0
    assert "single_linkage model: " in capsys.readouterr().out
    for again in (False, True):
        assert job("cluster", *given, "--model", tmp_path / "model", "--out", tmp_path / "run") == 0
        output, log = capsys.readouterr()
        assert "pairwise F " in output
        assert ("started 2 times" if again else "started once") in output
        assert ("knn: already committed" in log) == again


def test_the_scale_test_prints_a_line_for_each_part(
    job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("scale_test", "--set", "method=cosine", "--parts", "a=10,b=20", "--out", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if "BCubed F" in line)
    rows = [line.split() for line in lines[header + 1 : header + 3]]
    assert [row[0] for row in rows] == ["a", "b"]
    assert all(row[6:] == ["1", "0", "0.0"] for row in rows)


def test_a_refused_job_ends_with_2(job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job("cluster", "--features", tmp_path / "none.npy", "--out", tmp_path / "run") == 2
    assert "refused: " in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(TaskFailed("x"), 1), (DataError("x"), 2), (OSError("s3://a:b@c"), 1)])
def test_exit_codes(job: Any, error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    submission = importlib.import_module("submission")
    assert submission.run_job(fail) == code
    text = capsys.readouterr().err
    assert ("submit it again" in text) == (code != 2)
    assert "a:b@" not in text


@pytest.mark.parametrize("name", ["cluster", "train", "scale_test"])
@pytest.mark.parametrize("out", ["", "{here}/file", "{here}/file/below", "{here}/fifo"])
def test_an_impossible_place_is_refused(
    job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, out: str
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    given = {"cluster": ["--features", "x.npy"], "train": ["--features", "x.npy", "--labels", "y.npy"]}.get(name, [])
    place = out.format(here=tmp_path)
    assert job(name, *given, "--out", place) == 2
    errors = capsys.readouterr().err
    assert "refused: " in errors
    assert place in errors
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file"]


@pytest.mark.parametrize("parts", ["tiny=20,bogus", "tiny=x", "tiny=0", "part1=", ""])
def test_parts_are_refused_before_any_is_made(
    job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: str
) -> None:
    assert job("scale_test", "--out", tmp_path / "out", "--parts", parts) == 2
    assert "expected one of part1, part3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_demo_ends_with_what_to_open_and_to_type(
    job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = importlib.import_module("demo")
    demo.say_what_is_next(tmp_path / "my out")
    said = capsys.readouterr().out.splitlines()
    assert f"  {tmp_path}/my out/records-run/report.html" in said
    commands = [shlex.split(line) for line in said if line.startswith("  asterism ")]
    assert commands[0] == ["asterism", "export", "my out/records-run", "--out", "people.csv"]
    assert [words[1] for words in commands] == ["export", "run", "run"]
