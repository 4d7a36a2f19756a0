"""Commands that are killed or told to stop at random moments end in one line, leave nothing, and finish the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine import api
from engine.commands.standin import DIM
from tests.support import killed_commands
from tests.support.killed_commands import Command

SHARED = ("--threads", "1", "--quiet")
GRAPH = ("--set", "knn.k=10", "--set", "knn.recall_samples=0")
MAX_KILLS = 3


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in, and a finished run of it."""
    folder = tmp_path_factory.mktemp("given")
    api.make_standin(folder, 15, 1)
    api.cluster(folder / "features.bin", dim=DIM, method="cosine", workspace=folder / "run", **{"knn.k": 10})
    return folder


COMMANDS = {
    "ingest": ("ingest", "{given}/features.bin"),
    "run": ("run", "--features", "{given}/features.bin", "--method", "cosine", *GRAPH),
    "train": ("train", "--features", "{given}/features.bin", "--labels", "{given}/labels.meta", "--method", "gcn_d",
              "--set", "train.max_steps=10", *GRAPH),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_or_stopped_it_finishes_the_same(given: Path, tmp_path: Path, name: str) -> None:
    words = tuple(word.replace("{given}", str(given)) for word in COMMANDS[name])
    out = "{out}/model" if name == "train" else "{out}"  # beside which the training has its folder
    kills = strike(Command(name, (*words, "--dim", str(DIM), "--out", out, *SHARED)), tmp_path)
    assert kills


def test_an_export_is_whole_or_not_there(given: Path, tmp_path: Path) -> None:
    words = ("export", f"{given}/run", "--format", "parquet", "--out", "{out}/labels.parquet")
    strike(Command("export", words, files=("labels.parquet",)), tmp_path)


def test_a_report_is_whole(given: Path, tmp_path: Path) -> None:
    strike(Command("report", ("report", "{out}"), needs=given / "run"), tmp_path)


def strike(command: Command, folder: Path) -> int:
    """Kill and resume it until it is done, check all that must be true, and return the number of kills."""
    whole = folder / "whole"
    command.prepare(whole)
    undisturbed = killed_commands.run(command, whole)
    assert undisturbed.code == 0, undisturbed.errors
    contents = killed_commands.contents(whole)
    kills, within = 0, undisturbed.seconds
    while not kills and within > undisturbed.seconds / 10:  # it may be done sooner than the undisturbed one was
        attempts, wrong = killed_commands.strike_until_done(
            command, folder / f"killed within {within:.2f}", contents, within, 2.0, random.Random(5), MAX_KILLS
        )
        assert wrong == []
        kills, within = sum(bool(done.struck) for done in attempts), within / 2
    return kills


def test_what_is_wrong_is_found(given: Path, tmp_path: Path) -> None:
    command = Command("report", ("report", "{out}"), needs=given / "run")
    command.prepare(tmp_path / "run")
    whole = killed_commands.contents(tmp_path / "run")
    fine = killed_commands.Attempt(0, "", 1.0)
    assert killed_commands.check(command, tmp_path / "run", fine, whole) == []
    assert killed_commands.differences(command, tmp_path / "run", whole) == []
    (labels,) = (tmp_path / "run").glob("labels-*/labels.npy")
    labels.write_bytes(labels.read_bytes()[:-1])
    (tmp_path / "run/.x.7.tmp").touch()
    (tmp_path / "run/report.html").write_text("<html>")
    stopped = killed_commands.Attempt(1, "Traceback", 1.0, "SIGINT", left=["worker"])
    found = "\n".join(killed_commands.check(command, tmp_path / "run", stopped, whole))
    found += "\n".join(killed_commands.differences(command, tmp_path / "run", whole))
    for word in ("labels.npy has", "half a page", "a process is left", "expected 130", "one line", "a traceback",
                 "a temporary file", "is not what an undisturbed run wrote"):  # fmt: skip
        assert word in found
