"""The command line as a user types it: the contract's calls, their output, and one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.cli import doctor
from engine.cli.app import app, main
from engine.commands import probes
from engine.errors import ConfigError
from engine.units import parse_bytes

POINT = ["--set", "partition.min_score=0.8", "--set", "partition.max_size=50"]


@pytest.fixture(autouse=True)
def small_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of a machine's speed on little data: the figures mean nothing, but all is measured."""
    for name, value in {"ROWS": 4_096, "CELLS": 512, "DISK_BYTES": 4 << 20}.items():
        monkeypatch.setattr(probes, name, value)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(40), 10)
    vectors = rng.standard_normal((40, 64))[identities] + 0.1 * rng.standard_normal((400, 64))
    vectors.astype("<f4").tofile(tmp_path / "x.bin")
    (tmp_path / "x.meta").write_text("".join(f"{i}\n" for i in identities))
    return tmp_path


def asterism(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path
) -> tuple[int, str, str]:
    """Call the entry point in this process; return exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["asterism", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.slow
def test_run_status_export_evaluate_report(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: str | Path) -> str:
        code, out, err = asterism(capsys, monkeypatch, *words)
        assert code == 0, err
        return out

    run = data / "run"
    source = ("--features", data / "x.bin", "--dim", "64")
    plan = json.loads(call("plan", *source, *POINT, "--json"))
    names = {stage["name"] for stage in plan["stages"]}
    assert names >= {"ingest", "knn", "recall", "score", "roots", "curve", "labels", "explain", "analysis"}
    assert plan["memory_bytes"] > 0
    assert plan["seconds"] > 0
    assert set(plan["speeds"]) == {"codes", "floats", "memory", "disk"}
    assert "whole run" in call("plan", *source, *POINT)
    assert not run.exists()
    out = call("run", *source, "--out", run, "--labels", data / "x.meta", *POINT)
    assert "400 rows -> 40 clusters" in out
    assert "pairwise_f 1.0" in out
    status = json.loads(call("status", run, "--json"))
    assert status["state"] == "finished"
    assert all(stage["rows_committed"] == stage["rows"] for stage in status["stages"])
    assert "finished" in call("status", run)
    scores = json.loads(call("evaluate", "--run", run, "--labels", data / "x.meta", "--json"))
    assert set(scores) == {
        "pairwise_f", "pairwise_precision", "pairwise_recall", "bcubed_f", "bcubed_precision", "bcubed_recall", "nmi",
        "ari", "num_clusters", "num_singletons",
    }  # fmt: skip
    assert scores["num_clusters"] == 40
    call("export", run, "--format", "txt", "--out", data / "labels.txt")
    assert json.loads(call("evaluate", "--pred", data / "labels.txt", "--labels", data / "x.meta", "--json")) == scores
    call("report", run, "--out", data / "copy.html")
    assert (data / "copy.html").read_text().startswith("<!DOCTYPE html>")
    assert "already" not in call("resume", run)


def test_ingest_then_run_from_the_store(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = asterism(capsys, monkeypatch, "ingest", data / "x.bin", "--dim", "64", "--out", data / "store")
    assert code == 0
    assert "400 x 64" in out
    code, out, _ = asterism(capsys, monkeypatch, "run", "--features", data / "store", "--out", data / "run", *POINT)
    assert code == 0
    assert "40 clusters" in out
    assert not list((data / "run").glob("ingest-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--features", "none.npy", "--out", "r"], "none.npy: no such file or folder"),
        (["run", "--features", "{data}/x.bin", "--out", "r"], "--dim"),
        (["run", "--features", "{data}/x.bin", "--dim", "63", "--out", "r"], "63"),
        (
            ["run", "--features", "{data}/x.bin", "--dim", "64", "--out", "r", "--set", "knn.q=1"],
            "unknown setting knn.q",
        ),
        (["run", "--features", "{data}/x.bin", "--dim", "64", "--out", "r", "--set", "knn.k=x"], "knn.k"),
        (["run", "--features", "{data}/x.bin", "--dim", "64", "--out", "r", "--memory", "lots"], "--memory lots"),
        (["run", "--features", "{data}/x.bin", "--dim", "64", "--out", "r", "--memory", "1MB"], "raise --memory"),
        (["run", "--features", "{data}/x.bin", "--dim", "64", "--out", "r", "--method", "star_fc"], "needs --model"),
        (["run", "--features", "{data}/x.bin", "--dim", "64", "--out", "r", "--model", "{data}"], "holds no model"),
        (
            ["run", "--features", "{data}/x.bin", "--dim", "64", "--out", "r", "--config", "nope"],
            "no such configuration",
        ),
        (["plan"], "plan needs --features, or --hosts"),
        (["plan", "--features", "{data}/x.bin", "--dim", "64", "--rows", "1e9"], "--rows describes a source"),
        (["plan", "--hosts", "2", "--memory-per-host", "lots"], "--memory-per-host lots"),
        (["plan", "--hosts", "2", "--rows", "3e9"], "int32 ids"),
        (["status", "{data}"], "holds no run"),
        (["export", "{data}", "--out", "f"], "holds no run"),
        (["export", "{data}", "--clusters", "--out", "f.npy"], "ends in .parquet, .csv or nothing, got .npy"),
        (["export", "{data}", "--clusters", "--format", "npy", "--out", "f"], "--format npy: expected one of parquet"),
        (["export", "{data}", "--out", "f.pkl"], "ends in .npy, .txt, .meta, .parquet, .csv or nothing, got .pkl"),
        (["export", "{data}", "--format", "npy", "--out", "f.csv"], "ends in .csv, --format npy was asked for"),
        (["run", "--features", "f"], "Missing option '--out'"),
        (["[red]\x1b[31m"], r"No such command '[red]\x1b[31m'"),
        (["plan", "--threads", "many"], "Invalid value for '--threads'"),
        (["evaluate", "--labels", "{data}/x.meta"], "either --run RUN or --pred FILE"),
    ],
)
def test_errors_are_one_line(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = asterism(capsys, monkeypatch, *(word.format(data=data) for word in words))
    assert code == 2
    assert err.startswith("asterism: error: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "r").exists()


def test_plan_projects_for_a_compute_cluster(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ("plan", "--hosts", "16", "--gpus-per-host", "8", "--memory-per-host", "512GB")
    code, out, err = asterism(capsys, monkeypatch, *hosts)
    assert code == 0, err
    assert "100,000,000 x 256 on 16 hosts" in out
    assert "1,000,000,000 x 256 on 16 hosts" in out
    assert "does not fit" not in out
    code, out, _ = asterism(capsys, monkeypatch, *hosts, "--rows", "1e9", "--dim", "64", "--json")
    (found,) = json.loads(out)
    assert (found["num_rows"], found["dim"], found["refusals"]) == (10**9, 64, [])
    assert 0 < found["one_worker_seconds"] < found["seconds"] < found["seconds_every_pass"]
    _, out, _ = asterism(capsys, monkeypatch, *hosts, "--rows", "1e9", "--method", "star_fc")
    assert "does not fit" not in out
    _, out, _ = asterism(capsys, monkeypatch, *hosts, "--rows", "1e9", "--method", "gcn_d")
    assert "does not fit: proposals needs" in out
    source = ("--features", data / "x.bin", "--dim", "64")
    _, out, _ = asterism(capsys, monkeypatch, *hosts, *source, "--labels", data / "x.meta")
    assert "400 x 64 on 16 hosts" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GB", 8 * 10**9), ("500 MiB", 500 << 20), ("1.5g", 1_500_000_000), ("12345", 12345), ("2T", 2 * 10**12)],
)
def test_memory_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "8XB", "eight"])
def test_bad_memory_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a size such as 8GB"):
        parse_bytes(text)


def test_doctor_and_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = asterism(capsys, monkeypatch, "doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert {"torch", "cores", "faiss build", "memory free", "a run would use"} <= set(found)
    assert asterism(capsys, monkeypatch, "--version")[1].strip() == found["asterism"]


def test_every_command_is_documented() -> None:
    assert all(command.callback.__doc__ for command in app.registered_commands if command.callback)


def test_a_module_run_works_without_the_installed_command() -> None:
    done = subprocess.run([sys.executable, "-m", "engine", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--out", "memory://x/run"], "ends with this process"),
        (["run", "--out", "run", "--memory", ""], "expected a size such as 8GB"),
        (["run", "--out", "run", "--memory", "-1GB"], "--memory -1GB: expected a size"),
    ],
)
def test_what_would_be_lost_or_means_nothing_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.eye(4, dtype=np.float32))
    found = CliRunner().invoke(app, [*words, "--features", str(tmp_path / "rows.npy")])
    assert isinstance(found.exception, ConfigError)
    assert said in str(found.exception)


@pytest.mark.parametrize("rows", ["0", "-5", "2.5", "nan", "inf", "1e30", "2147483648"])
def test_sizes_to_project_are_at_least_two(rows: str) -> None:
    found = CliRunner().invoke(app, ["plan", "--hosts", "2", "--rows", rows])
    assert isinstance(found.exception, ConfigError)
    assert f"--rows {float(rows):g}: clustering needs at least 2 rows" in str(found.exception)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/a/[b]\x1b"), r"/a/[b]\x1b: permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "memory ran out; what was committed is kept"),
        (RecursionError("maximum depth"), "something is nested too deeply (maximum depth); what was committed is kept"),
        (ConfigError("one\nasterism: error: two"), "one\n  asterism: error: two"),
    ],
)
def test_what_goes_wrong_anywhere_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(doctor, "diagnose", fail)
    assert asterism(capsys, monkeypatch, "doctor") == (2, "", f"asterism: error: {said}\n")
