"""A plan run in a process of its own: its seconds and memory owe nothing to what ran before it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError, RunBusy
from engine.process.import_path import child_environment
from engine.process.stopping import CODES, GRACE_S, SIGNALS, stop_cleanly

if TYPE_CHECKING:  # loading them takes seconds, in which the process may be told to stop
    from engine.commands.request import Kind, Request
    from engine.commands.resources import Resources

BUSY = 75
END_WITH_PARENT = 1  # Linux: PR_SET_PDEATHSIG


def execute_apart(kind: Kind, folder: Path, request: Request, resources: Resources, *, progress: bool) -> None:
    """Prepare and run; raises ``EngineError`` with the first line of what it failed of: the folder's events have all.

    Where this process ends, so does that one; what was committed is kept. Raises ``RunBusy`` where others work on it.
    """
    asked = {
        "kind": kind,
        "folder": str(folder),
        "request": request.as_dict(),
        "resources": resources.model_dump(),
        "progress": progress,
        "parent": os.getpid(),
    }
    command, environment = [sys.executable, "-P", "-m", "engine.commands.apart"], child_environment()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            output, _ = child.communicate(json.dumps(asked))
        except BaseException:
            _stop(child)
            raise
    code = child.returncode
    if code in CODES or -code in SIGNALS:
        raise KeyboardInterrupt
    if code:
        said = output.strip().splitlines()
        what = f"by signal {-code}, for want of memory?" if code < 0 else code
        kind_of = RunBusy if code == BUSY else EngineError
        raise kind_of(said[-1] if said else f"the {kind} in {folder} ended {what}")


def _stop(child: subprocess.Popen[str]) -> None:
    """Tell a process to stop, and end it if it takes too long over that."""
    child.terminate()
    try:
        child.wait(GRACE_S / 2)
    except subprocess.TimeoutExpired:
        child.kill()


def main() -> None:
    """Run what the standard input asks for; an error is one line of the output."""
    stop_cleanly(silent=True)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
    try:
        asked = json.load(sys.stdin)
    except ValueError:  # the parent ended while it asked
        asked = {"parent": None}
    if asked["parent"] != os.getppid():
        raise SystemExit(128 + signal.SIGTERM)
    from engine.commands.execution import execute
    from engine.commands.preparation import prepare
    from engine.commands.request import Request
    from engine.commands.resources import Resources

    try:
        request, resources = Request.from_dict(asked["request"]), Resources(**asked["resources"])
        prepared = prepare(asked["kind"], asked["folder"], request, resources)
        execute(prepared, progress=asked["progress"])
    except Exception as error:
        named = "" if isinstance(error, EngineError) else f"{type(error).__name__}: "
        print(named + (str(error).splitlines() or ["no message"])[0])
        raise SystemExit(BUSY if isinstance(error, RunBusy) else 1) from None


if __name__ == "__main__":
    main()
