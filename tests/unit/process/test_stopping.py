"""A process that is told to stop says so in one line and ends, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.process.stopping import LINE, SIGNALS
from tests.support import ROOT

READY = "print('ready', flush=True)"
BEGIN = "import ctypes, os, signal, threading, time; from engine.process import stopping; stopping.stop_cleanly"
# Minutes in C without the interpreter's lock; a sleep would end at the signal, and the exception come in time.
COMPUTE_IN_C = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 10**9)"

BUSY = {
    "waits": "time.sleep(60)",
    "is in a computation that no exception reaches": COMPUTE_IN_C,
    "has a thread in a computation": f"threading.Thread(target=lambda: {COMPUTE_IN_C}).start(); time.sleep(60)",
    "catches every exception": """
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
""",
    "prints a traceback": """
try:
    time.sleep(60)
except BaseException:
    raise ValueError("while stopping")
""",
    "fails in a destructor": """
class Held:
    def __del__(self):
        time.sleep(60)
held = Held()
del held
time.sleep(60)
""",
    "has a handler of a library": """
signal.signal(signal.SIGTERM, lambda number, frame: exit(15))
signal.signal(signal.SIGINT, lambda number, frame: exit(15))
time.sleep(60)
""",
}


def heed_signals(ignored: signal.Signals | None = None) -> None:
    """Take signals as a command in the foreground does: a shell ignores some for what it starts in the background."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)


def start(program: str, how: str = "()", *, ignored: signal.Signals | None = None) -> subprocess.Popen[str]:
    """Start a program, and wait until it is ready to be stopped: at its begin, unless it says itself when it is."""
    ready = "" if READY in program else f"; {READY}"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{BEGIN}{how}{ready}\n{program}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: heed_signals(ignored),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What else a process prints, and its errors, until it has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    printed = process.stdout.read(), process.stderr.read()
    process.wait(20)
    return printed


@pytest.mark.parametrize("program", BUSY.values(), ids=BUSY)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_line_whatever_it_does(program: str, number: signal.Signals) -> None:
    process = start(program)
    time.sleep(0.3)  # by then it is busy
    process.send_signal(number)
    output, errors = end(process)
    assert (process.returncode, output, errors) == (128 + number, "", LINE + "\n")


def test_the_end_of_the_terminal_is_one_of_them() -> None:
    process = start("time.sleep(60)")
    process.send_signal(signal.SIGHUP)
    assert end(process)[1] == LINE + "\n"
    assert process.returncode == 128 + signal.SIGHUP


def test_what_the_parent_ignores_stays_ignored() -> None:
    process = start("time.sleep(1); print('done')", ignored=signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert end(process) == ("done\n", "")
    assert process.returncode == 0


def test_a_second_one_while_all_is_given_back_changes_nothing() -> None:
    process = start(
        f"""
try:
    {READY}
    time.sleep(60)
finally:
    print("cleaning", flush=True)
    time.sleep(0.1)
    print("cleaned")
""",
        "(); stopping.GRACE_S = 60",
    )
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert end(process) == ("cleaned\n", LINE + "\n")
    assert process.returncode == 128 + signal.SIGINT


def test_a_process_that_ends_by_itself_says_nothing() -> None:
    process = start("print('done')")
    assert end(process) == ("done\n", "")
    assert process.returncode == 0


def test_another_signal_that_a_library_handles_ends_nothing() -> None:
    process = start("""
signal.signal(signal.SIGUSR1, lambda number, frame: None)
for _ in range(3):
    os.kill(os.getpid(), signal.SIGUSR1)
print("done")
""")
    assert end(process) == ("done\n", "")
    assert process.returncode == 0


def test_a_silent_one_says_no_line() -> None:
    process = start("time.sleep(60)", "(silent=True)")
    process.send_signal(signal.SIGINT)
    assert end(process)[1] == ""
    assert process.returncode == 128 + signal.SIGINT


def test_a_temporary_file_goes_even_if_the_writer_cannot(tmp_path: Path) -> None:
    process = start(f"""
from pathlib import Path
with stopping.temporary(Path({str(tmp_path / ".x.tmp")!r})) as path:
    path.touch()
    print("written", flush=True)
    {COMPUTE_IN_C}
""")
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    time.sleep(0.3)  # by then it computes
    process.send_signal(signal.SIGTERM)
    end(process)
    assert list(tmp_path.iterdir()) == []


JOBS = [f"jobs/{name}.py" for name in ("cluster", "train", "scale_test", "demo")]


@pytest.mark.parametrize("command", ["-m engine doctor", *JOBS])
def test_while_the_engine_loads(command: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(f"import time\n{READY}\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, *command.split()], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert end(process)[1] == LINE + "\n"
    assert process.returncode == 128 + signal.SIGINT
