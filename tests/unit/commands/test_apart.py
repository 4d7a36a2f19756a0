"""A plan's process of its own ends with the one that started it, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engine.process.stopping import LINE, SIGNALS
from tests.support import ROOT

PROGRAM = """
from types import SimpleNamespace
from engine.commands.apart import execute_apart
from engine.process.stopping import stop_cleanly
stop_cleanly()
nothing = SimpleNamespace(as_dict=dict, model_dump=dict)
try:
    execute_apart("run", "folder", nothing, nothing, progress=False)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
"""


def heed_signals() -> None:
    """Take signals as a command in the foreground does: a shell ignores some for what it starts in the background."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A process and the one that it started, which takes long to load the engine."""
    (tmp_path / "torch.py").write_text("import os, sys, time\nprint(os.getpid(), file=sys.stderr)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, bufsize=1, preexec_fn=heed_signals,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        yield process, psutil.Process(int(process.stderr.readline()))
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_one_that_started_it(
    processes: tuple[subprocess.Popen[str], psutil.Process], number: signal.Signals
) -> None:
    process, child = processes
    process.send_signal(number)
    assert process.stderr is not None
    errors = process.stderr.read()  # both have ended then, as both could write there
    assert process.wait(20) == (-number if number == signal.SIGKILL else 128 + number)
    assert errors == ("" if number == signal.SIGKILL else LINE + "\n")
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_told_to_stop_interrupts(
    processes: tuple[subprocess.Popen[str], psutil.Process], number: signal.Signals
) -> None:
    process, child = processes
    child.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.read() == "interrupted\n"
