"""Command lines that are killed and told to stop at random moments, and what must be true after each.

A command line runs in a process forked from a server that has the engine imported, so that an attempt starts in no
time, or as a true process of its own, whose first seconds count too.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from engine.process.stopping import LINE, SIGNALS, stop_cleanly
from engine.runs.scratch import is_consumed
from engine.storage import manifest
from engine.storage.context import folder_digest
from tests.support import ROOT
from tests.support.killing import CONTEXT

GONE_S = 20.0  # that a process is waited for before it counts as left behind
DONE_S = 10.0  # a process that ends so long after a signal, without its line, went on in spite of it


@dataclass(frozen=True)
class Command:
    """A command line, as ``{out}`` its folder, which each attempt series has a fresh one of.

    ``needs``: a folder that is copied to ``out`` first. ``files``: what it exports, whole or absent at any moment.
    """

    name: str
    words: tuple[str, ...]
    needs: Path | None = None
    files: tuple[str, ...] = ()

    def words_in(self, out: Path) -> list[str]:
        return [word.format(out=out) for word in self.words]

    def prepare(self, out: Path) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        if self.needs:
            shutil.copytree(self.needs, out, dirs_exist_ok=True)


@dataclass
class Attempt:
    """How one attempt at a command ended: ``code`` is negative for a signal's default action."""

    code: int
    errors: str
    seconds: float
    struck: str = ""
    ready: bool = True
    delay_s: float = 0.0
    gone_s: float = 0.0
    left: list[str] = field(default_factory=list)


def run(command: Command, out: Path, *, true_command: bool = False) -> Attempt:
    """Run a command to its end."""
    return attempt(command, out, None, 0, true_command=true_command)


def attempt(
    command: Command, out: Path, number: signal.Signals | None, delay_s: float, *, true_command: bool = False
) -> Attempt:
    """Run a command, and send it a signal ``delay_s`` after its start, unless it ends before."""
    log = out.parent / f"{out.name}.log"
    started = time.monotonic()
    process = (_True if true_command else _Forked)(command.words_in(out), log)
    children: list[psutil.Process] = []
    struck, ready, gone_s = "", True, 0.0
    if number is not None and not process.ends_within(delay_s):
        with suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
        with suppress(OSError):
            ready = _handles(process.pid)
        with suppress(ProcessLookupError):  # it may end by itself just now
            os.kill(process.pid, number)
            struck, sent = number.name, time.monotonic()
    code = process.wait()
    if struck:
        _, alive = psutil.wait_procs(children, timeout=GONE_S)
        gone_s = time.monotonic() - sent
    left = [str(each) for each in alive] if struck else []
    return Attempt(
        code, log.read_text(errors="replace"), time.monotonic() - started, struck, ready, delay_s, gone_s, left
    )


def strike_until_done(
    command: Command, out: Path, whole: dict[str, str], seconds: float, loading_s: float, rng: random.Random,
    max_kills: int,
) -> tuple[list[Attempt], list[str]]:  # fmt: skip
    """Run a command in a fresh folder, kill it or tell it to stop, run it again, by chance killed again, until done.

    ``whole``: the ``contents`` of an undisturbed folder; ``seconds``: how long that took, ``loading_s``: how much
    longer it takes as a true command line. Returns the attempts, and what was wrong after each and at the end.
    """
    command.prepare(out)
    attempts: list[Attempt] = []
    wrong: list[str] = []
    while True:
        kills = sum(bool(done.struck) for done in attempts)
        if kills < max_kills and (not kills or rng.random() < 0.5):
            number = rng.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
            true = number != signal.SIGKILL and rng.random() < 0.3
            done = attempt(command, out, number, rng.uniform(0, seconds + loading_s * true), true_command=true)
        else:
            done = run(command, out)
        attempts.append(done)
        wrong += check(command, out, done, whole)
        if done.code == 0:
            return attempts, wrong + differences(command, out, whole)
        if not done.struck:
            return attempts, wrong


def check(command: Command, out: Path, done: Attempt, whole: dict[str, str]) -> list[str]:
    """What is wrong after an attempt: with its end, or with what it left in the folder."""
    how = f"{command.name}, {done.struck or 'no signal'} after {done.delay_s:.2f} s"
    return [f"{how}: {what}" for what in [*_ends_wrong(done), *_damage(command, out, whole)]]


def differences(command: Command, out: Path, whole: dict[str, str]) -> list[str]:
    """What a finished command's folder has other than an undisturbed one's: outputs, files, temporary files."""
    wrong = [f"{command.name}: a temporary file is left: {path}" for path in out.rglob(".*.tmp")]
    ours = contents(out)
    for name in sorted(ours.keys() | whole.keys()):
        if ours.get(name) != whole.get(name):
            wrong.append(f"{command.name}: {name} is not what an undisturbed run wrote")
    return wrong


def contents(out: Path) -> dict[str, str]:
    """Checksums of all that a user or a later stage reads: committed outputs, models, exported files."""
    found = {
        f"{folder.relative_to(out)}/{output.path}": output.checksum
        for folder in _stages(out)
        for record in manifest.read_records(folder, folder_digest(folder))
        for output in record.outputs
    }
    for path in out.rglob("*"):
        if path.suffix in (".npy", ".safetensors", ".parquet", ".txt", ".meta", ".csv"):
            found[path.relative_to(out).as_posix()] = manifest.file_checksum(path)
    return found


def _stages(out: Path) -> list[Path]:
    return sorted({path.parent.parent for path in out.rglob("records/*.json")})


def _ends_wrong(done: Attempt) -> list[str]:
    wrong = [f"a process is left: {process}" for process in done.left]
    if not done.struck:
        return [*wrong, *([f"ended with {done.code}: {done.errors[-800:]}"] if done.code else [])]
    number = signal.Signals[done.struck]
    if number == signal.SIGKILL or not done.ready:  # before its first line Python itself answers a signal
        return [*wrong, *(["a traceback"] if "Traceback" in done.errors and done.ready else [])]
    if done.code == 0 and LINE not in done.errors and done.gone_s < DONE_S:  # it had done its work
        return wrong
    if done.code != 128 + number:
        wrong.append(f"ended with {done.code}, expected {128 + number}: {done.errors[-800:]}")
    if done.errors.count(LINE) != 1 or not done.errors.endswith(f"{LINE}\n"):
        wrong.append(f"expected one line at the end, got {done.errors[-800:]!r}")
    if "Traceback" in done.errors:
        wrong.append(f"a traceback: {done.errors[-800:]}")
    return wrong


def _damage(command: Command, out: Path, whole: dict[str, str]) -> list[str]:
    wrong = []
    for folder in _stages(out):
        wrong += [f"{path} is half a record" for path in manifest.damaged_records(folder)]
        if not is_consumed(folder):
            records = manifest.read_records(folder, folder_digest(folder))
            wrong += [text for record in records if (text := manifest.find_damage(folder, record))]
    for path in out.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            wrong.append(f"{path} is half a file")
    wrong += [f"{path} is half a page" for path in out.rglob("*.html") if not path.read_text().endswith("</html>\n")]
    for name in [*command.files, *(path.relative_to(out).as_posix() for path in out.rglob("model.safetensors"))]:
        if (out / name).exists() and manifest.file_checksum(out / name) != whole.get(name):
            wrong.append(f"{name} is half a file")
    return wrong


def heed_signals() -> None:
    """Take signals that the shell ignores for what it starts in the background, as a command in the foreground does."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


class _Forked:
    """A process from the server; as a ``subprocess.Popen`` where it matters."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._process = CONTEXT.Process(target=_run_here, args=(list(words), str(log)))
        self._process.start()
        self.pid: int = self._process.pid

    def wait(self) -> int:
        self._process.join()
        return int(self._process.exitcode)

    def ends_within(self, seconds: float) -> bool:
        self._process.join(seconds)
        return self._process.exitcode is not None


class _True(subprocess.Popen[bytes]):
    def __init__(self, words: Sequence[str], log: Path) -> None:
        with open(log, "wb") as stream:
            super().__init__(
                [sys.executable, "-m", "engine", *words], stdout=subprocess.DEVNULL, stderr=stream, cwd=ROOT,
                preexec_fn=heed_signals,
            )  # fmt: skip

    def ends_within(self, seconds: float) -> bool:
        try:
            self.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def _run_here(words: list[str], log: str) -> None:
    """Body of a forked process: the command line, to the same end as in a process of its own."""
    from engine.cli import app as cli

    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    heed_signals()
    code = 0
    try:
        stop_cleanly()
        sys.argv = ["asterism", *words]
        cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    os._exit(code)


def _handles(pid: int) -> bool:
    """Tell whether a process has begun to handle signals: Python itself never handles SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)
