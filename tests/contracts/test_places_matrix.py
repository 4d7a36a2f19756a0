"""Every command, with every argument that names a place, given everything that may be found there.

What cannot be read or written is refused with one sentence that names it and exit code 2, before anything is written;
nothing is opened that would wait. The commands and their arguments are those of the command line itself: one that is
new fails here until it has a case.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from engine import api
from engine.cli import app as cli
from engine.commands import probes
from engine.process.terminal import shown
from engine.storage.remote import CACHE_FOLDER

# What an argument names. ``source`` may be a file or a folder, and so may a KNN graph.
PLACES = {
    "source": "source", "features": "source", "knn_graph": "source", "labels": "file", "pred": "file", "split": "file",
    "states": "file", "config": "file", "model": "folder", "folder": "run", "run_folder": "run", "items_root": "folder",
    "decisions": "file",
    "remove": "file", "other": "run",
}  # fmt: skip
OUT = {
    "ingest": "folder", "train": "folder", "run": "folder", "plan": "folder", "compare": "folder", "convert": "folder",
    "synth": "folder", "export": "file", "report": "file", "assign": "file", "diff": "file",
}  # fmt: skip
NO_PLACES = {
    "as_json", "block_rows", "clusters", "column", "cores_per_host", "device", "dim", "disk_per_host", "executor",
    "file_format", "gpus_per_host", "hosts", "identities", "items_column", "k", "labels_column", "memory",
    "memory_per_host", "method", "methods", "precision_bias", "quiet", "rows", "seed", "settings", "threads", "workers",
    "zero_vectors",
    "bad_rows", "bits", "schema", "cluster", "cluster_map", "port", "kept_in", "level",
}  # fmt: skip
# Arguments that a command needs, and those that make it quick. Values in braces are of the ``world``.
GIVEN: dict[str, dict[str, str]] = {
    "ingest": {"source": "{x}", "out": "{new}", "quiet": ""},
    "train": {"features": "{x}", "labels": "{y}", "out": "{new}", "method": "single_linkage", "quiet": ""},
    "run": {"features": "{x}", "out": "{new}", "settings": "partition.min_score=0.8", "quiet": ""},
    "plan": {"features": "{x}", "out": "{new}", "settings": "partition.min_score=0.8"},
    "compare": {"features": "{x}", "labels": "{y}", "out": "{new}", "methods": "cosine", "quiet": ""},
    "convert": {"states": "{state}", "method": "l_gcn", "out": "{new}"},
    "resume": {"folder": "{run}", "quiet": ""},
    "status": {"folder": "{run}"},
    "review": {"folder": "{run}", "port": "0"},
    "export": {"folder": "{run}", "out": "{new}"},
    "evaluate": {"labels": "{y}", "run_folder": "{run}"},
    "report": {"folder": "{run}", "out": "{new}"},
    "update": {"folder": "{run}", "features": "{more}", "quiet": ""},
    "assign": {"folder": "{run}", "features": "{x}", "out": "{new}"},
    "diff": {"folder": "{run}", "other": "{run}", "out": "{new}"},
    "synth": {"identities": "3", "out": "{new}"},
    "settings": {},
    "doctor": {},
}  # fmt: skip
INSTEAD = {("evaluate", "pred"): "run_folder", ("update", "remove"): "features"}  # arguments that stand for another

ODD_NAME = "[red]it's[/]:smile:\x1b[31m\r\udcff\u202e"
LONG_NAME = "x" * 300


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def places() -> list[tuple[str, str, str]]:
    """Command, argument, and what it names, of every argument that names a place."""
    found = []
    for name, command in sorted(commands().items()):
        for each in command.params:
            if each.name == "out":
                found.append((name, each.name, f"out {OUT[name]}"))
            elif each.name in PLACES:
                found.append((name, each.name, PLACES[each.name]))
    return found


def words(world: dict[str, str], name: str, **others: str) -> list[str]:
    """The words of a command line, with ``others`` in the place of what is given."""
    given = {**GIVEN[name], **others}
    for own, other in INSTEAD.items():
        if own[0] == name and own[1] in others:
            given.pop(other)
    said = [name]
    for each in commands()[name].params:
        if each.name not in given:
            continue
        value = given[each.name]
        value = world[value[1:-1]] if value.startswith("{") and value.endswith("}") else value
        option = [each.opts[0]] if each.opts[0].startswith("-") else []
        said += option + ([] if getattr(each, "is_flag", False) else [value])
    return said


def make_state(path: Path) -> None:
    torch.save({
        "bn0.running_mean": torch.zeros(4), "bn0.running_var": torch.ones(4), "conv1.weight": torch.ones(8, 4),
        "conv1.bias": torch.zeros(4), "conv2.weight": torch.ones(8, 4), "conv2.bias": torch.zeros(4),
        "conv3.weight": torch.ones(8, 4), "conv3.bias": torch.zeros(4), "conv4.weight": torch.ones(8, 4),
        "conv4.bias": torch.zeros(4), "classifier.0.weight": torch.ones(4, 4), "classifier.0.bias": torch.zeros(4),
        "classifier.1.weight": torch.zeros(4), "classifier.2.weight": torch.ones(2, 4),
        "classifier.2.bias": torch.zeros(2),
    }, path)  # fmt: skip


def make_data(here: Path) -> dict[str, str]:
    """Vectors, labels, a state dict and a finished run in a folder: what the commands of ``GIVEN`` need."""
    identities = np.repeat(np.arange(12), 5)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, 8))[identities] + 0.05 * rng.standard_normal((60, 8))
    np.save(here / "x.npy", vectors.astype(np.float32))
    np.save(here / "more.npy", vectors[:20].astype(np.float32)[:, ::-1])
    np.save(here / "y.npy", identities)
    make_state(here / "state.pth")
    api.cluster(here / "x.npy", workspace=here / "run", partition={"min_score": 0.8})
    names = {"x": "x.npy", "more": "more.npy", "y": "y.npy", "state": "state.pth", "run": "run", "new": "new"}
    return {name: str(here / path) for name, path in names.items()}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("places")


@pytest.fixture(scope="module")
def world(here: Path) -> dict[str, str]:
    """What is valid, and beside it, in ``bad``, what is not."""
    given = make_data(here)
    bad = here / "bad"
    bad.mkdir()
    (bad / "empty folder").mkdir()
    (bad / "full folder").mkdir()
    (bad / "full folder" / "letter.txt").write_text("mine")
    (bad / "file").write_text("neither vectors nor labels, nor settings")
    os.mkfifo(bad / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(bad / "socket"))
    (bad / "dangling").symlink_to(bad / "nowhere")
    (bad / "circle").symlink_to("circle")
    (bad / "to a device").symlink_to("/dev/zero")
    os.environ[CACHE_FOLDER] = str(here / "cache")
    return given


BAD: dict[str, str] = {
    "empty": "", "missing": "bad/none", "empty folder": "bad/empty folder", "full folder": "bad/full folder",
    "file": "bad/file", "under a file": "bad/file/below", "FIFO": "bad/fifo", "socket": "bad/socket",
    "device": "/dev/zero", "link to a device": "bad/to a device", "dangling link": "bad/dangling",
    "link in a circle": "bad/circle", "too long": f"bad/{LONG_NAME}", "odd name": f"bad/{ODD_NAME}",
    "odd parent": f"bad/{ODD_NAME}/below",
}  # fmt: skip
# What is no fault of a place, by what an argument names; another test shows that it works.
LEGAL = {
    "out folder": {"missing", "empty folder", "odd name", "odd parent"},
    "out file": {"missing", "file", "odd name", "odd parent"},
    "folder": set[str](),
}  # fmt: skip
LEGAL_HERE = {
    ("synth", "out", "full folder"), ("report", "items_root", "empty folder"), ("report", "items_root", "full folder"),
    ("run", "items_root", "empty folder"), ("run", "items_root", "full folder"),
}  # fmt: skip


def cases() -> Iterator[tuple[str, str, str]]:
    for name, argument, kind in places():
        for fault in BAD:
            if fault not in LEGAL.get(kind, ()) and (name, argument, fault) not in LEGAL_HERE:
                yield name, argument, fault


@contextmanager
def in_time(limit_s: int) -> Iterator[None]:
    """Fail, instead of waiting for ever, where a FIFO or device was opened."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"still waiting after {limit_s} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(limit_s)
    faulthandler.dump_traceback_later(2 * limit_s, exit=True)  # where no exception reaches it
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Kind, size and time of change of everything below a folder, and where its links lead."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            path = Path(parent, name)
            held = path.lstat()
            leads = os.readlink(path) if stat.S_ISLNK(held.st_mode) else ""
            found[str(path)] = (stat.S_IFMT(held.st_mode), held.st_size, held.st_mtime_ns, leads)
    return found


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def asterism(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command line in this process; return exit code, output and errors."""
    speeds = {"codes": 1.0, "floats": 1.0, "memory": 1.0, "disk": 1.0}
    monkeypatch.setattr(probes, "measure_speeds", lambda *_: speeds)

    def call(*said: str, limit_s: int = 60) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asterism", *said])
        code = 0
        with in_time(limit_s):
            try:
                cli.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        return code, *capfd.readouterr()

    return call


def test_every_argument_is_known_to_this_test() -> None:
    for name, command in commands().items():
        assert name in GIVEN, f"asterism {name} is new: give it an entry in GIVEN"
        unknown = {each.name for each in command.params} - {*PLACES, *NO_PLACES, "out", "help"}
        assert not unknown, f"asterism {name}: put {unknown} into PLACES or NO_PLACES"
        assert "out" not in {each.name for each in command.params} or name in OUT


@pytest.mark.parametrize(("name", "argument", "fault"), cases())
def test_a_bad_place_is_refused_in_a_sentence_and_nothing_is_touched(
    here: Path, world: dict[str, str], asterism: Call, monkeypatch: pytest.MonkeyPatch, name: str, argument: str,
    fault: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(here / "run")  # an empty name is not this folder
    before = snapshot(here)
    place = BAD[fault] and str(here / BAD[fault])
    code, output, errors = asterism(*words(world, name, **{argument: place}))
    assert code == 2, output + errors
    assert errors.startswith("asterism: error: "), errors
    assert len(errors.splitlines()) == 1
    assert shown(place) in errors
    assert place or "empty" in errors or argument == "config"
    assert not any(ord(letter) < 32 for letter in errors.rstrip("\n"))
    assert output == ""
    assert snapshot(here) == before


def test_names_of_any_kind_work_and_are_printed_right(
    tmp_path: Path, asterism: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / ODD_NAME
    odd.mkdir(parents=True)
    given = make_data(odd)
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path / "cache"))
    steps: list[tuple[str, dict[str, str]]] = [
        ("plan", {}), ("ingest", {}), ("run", {"features": "{x}", "labels": "{y}", "items_root": str(odd)}),
        ("run", {"features": str(odd / "new ingest")}), ("train", {}), ("convert", {}), ("status", {}),
        ("status", {"as_json": ""}), ("resume", {}), ("export", {}), ("export", {"clusters": ""}),
        ("evaluate", {}), ("evaluate", {"pred": "{y}"}), ("report", {}), ("synth", {}), ("compare", {}),
        ("assign", {}), ("diff", {}), ("update", {}),
    ]  # fmt: skip
    for number, (name, others) in enumerate(steps):
        out = odd / (f"new {name}" if name == "ingest" else f"new {name} {number}")
        tables = dict.fromkeys(("export", "assign", "diff"), ".parquet")
        out = out.with_suffix({**tables, "report": ".html"}.get(name, ""))
        code, output, errors = asterism(*words({**given, "new": str(out)}, name, **others), limit_s=240)
        assert code == 0, (name, errors)
        assert not any(ord(letter) < 32 for letter in (output + errors).replace("\n", "")), name
        if "as_json" in others:
            assert json.loads(output)["run"] == given["run"]
        elif name != "evaluate":
            assert shown(odd) in output, name
    assert shown("red") in (odd / "new report 13.html").read_text("utf-8")


DRIVER = """
import contextlib, io, json, sys
from engine.cli import app as cli
from engine.commands import probes
probes.measure_speeds = lambda *_: {"codes": 1.0, "floats": 1.0, "memory": 1.0, "disk": 1.0}
found = []
for said in json.load(sys.stdin):
    sys.argv, code = ["asterism", *said], 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as error:
            code = f"Traceback: {error!r}"
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def in_a_child(lines: list[list[str]], cache: Path) -> list[tuple[Any, str, str]]:
    """Call command lines in one process that permissions are binding for, as they are not for root."""

    def bind() -> None:
        if os.geteuid() == 0:
            for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
                ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(lines), capture_output=True, text=True, timeout=240,
        preexec_fn=bind, env={**os.environ, CACHE_FOLDER: str(cache)}, check=True,
    )  # fmt: skip
    return [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder of places that may be neither read nor written."""
    locked = tmp_path / "locked"
    (locked / "folder" / "below").mkdir(parents=True)
    (locked / "file.npy").write_bytes(b"secret")
    (locked / "read-only").mkdir()
    (locked / "read-only" / "there").write_text("kept")
    (locked / "folder").chmod(0)
    (locked / "file.npy").chmod(0)
    (locked / "read-only").chmod(0o555)
    yield locked
    (locked / "folder").chmod(0o700)
    (locked / "read-only").chmod(0o700)


def test_without_permission_a_place_is_refused(world: dict[str, str], locked: Path) -> None:
    asked = []
    for name, argument, kind in places():
        if kind == "out folder":
            faults = ["read-only", "read-only/new", "folder", "folder/below", "folder/below/new"]
        elif kind == "out file":
            faults = ["read-only/new", "read-only/there", "folder/below", "folder/below/new"]
        else:
            faults = ["folder/below", "folder/file.npy", *(["folder"] if kind in ("run", "folder") else ["file.npy"])]
        asked += [(name, argument, locked / fault) for fault in faults]
    lines = [words(world, name, **{argument: str(place)}) for name, argument, place in asked]
    before = snapshot(locked)
    for (name, argument, place), (code, output, errors) in zip(asked, in_a_child(lines, locked / "none"), strict=True):
        assert code == 2, (name, argument, place, code, output, errors)
        assert errors.startswith("asterism: error: ")
        assert str(place) in errors, (name, argument, errors)
        said = ("permission denied", "cannot be", *(["no such configuration"] if argument == "config" else []))
        assert any(each in errors for each in said), (name, argument, errors)
    assert snapshot(locked) == before


def mounted(disk: Path, options: str) -> None:
    """Mount a small file system of its own, or a change of its options; skip where that may not be done."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small tmpfs needs root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted(disk, "size=16m")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_read_only_disk_is_read_and_not_written(tmp_path: Path, disk: Path) -> None:
    given = make_data(disk)
    mounted(disk, "remount,ro")
    before = snapshot(disk)
    outs = [(name, argument) for name, argument, kind in places() if kind.startswith("out")]
    refused = [words({**given, "new": str(disk / "new")}, name) for name, _ in outs]
    refused += [["report", given["run"]], ["resume", given["run"]]]
    free = {name: str(tmp_path / f"new {name}") for name, _ in outs if name != "compare"}
    allowed = [words({**given, "new": place}, name) for name, place in free.items()]
    allowed += [words(given, "status"), words(given, "evaluate")]
    found = in_a_child([*refused, *allowed], tmp_path / "cache")
    for line, (code, output, errors) in zip(refused, found, strict=False):
        assert code == 2, (line, code, output, errors)
        assert str(disk) in errors
        assert "read-only" in errors.lower(), errors
    for line, (code, _, errors) in zip(allowed, found[len(refused) :], strict=True):
        assert code == 0, (line, errors)
    assert snapshot(disk) == before


def test_a_full_disk_loses_nothing(world: dict[str, str], tmp_path: Path, disk: Path) -> None:
    (disk / "old").write_text("kept")
    with open(disk / "filler", "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(1 << 16))
        except OSError:
            pass
    before = snapshot(disk)
    outs = [(name, argument, f"new {name}") for name, argument, kind in places() if kind.startswith("out")]
    outs += [(name, argument, "old") for name, argument, kind in places() if kind == "out file"]
    lines = [words(world, name, **{argument: str(disk / out)}) for name, argument, out in outs]
    for line, (code, output, errors) in zip(lines, in_a_child(lines, tmp_path / "cache"), strict=True):
        assert code == 2, (line, code, output, errors)
        assert errors.startswith("asterism: error: ")
        assert "disk" in errors, errors
    after = snapshot(disk)
    kept = {path: held for path, held in before.items() if stat.S_ISREG(held[0])}
    assert {path: after.get(path) for path in kept} == kept
    assert not [path for path in after if path.endswith(".tmp")]
