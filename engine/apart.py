"""A plan run in a process of its own: its seconds and memory owe nothing to what ran before it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from engine import api
from engine.config import Resources
from engine.errors import EngineError, RunBusy

INTERRUPTED, BUSY = 130, 75
END_WITH_PARENT = 1  # Linux: PR_SET_PDEATHSIG


def execute_apart(kind: api.Kind, folder: Path, request: api.Request, resources: Resources, *, progress: bool) -> None:
    """Prepare and run; raises ``EngineError`` with the first line of what it failed of: the folder's events have all.

    Where this process ends, so does that one; what was committed is kept. Raises ``RunBusy`` where others work on it.
    """
    asked = {
        "kind": kind, "folder": str(folder), "request": request.as_dict(), "resources": resources.model_dump(),
        "progress": progress, "parent": os.getpid(),
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "engine.apart"], input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if ended.returncode:
        said = ended.stdout.strip().splitlines()
        what = f"by signal {-ended.returncode}, for want of memory?" if ended.returncode < 0 else ended.returncode
        kind_of = RunBusy if ended.returncode == BUSY else EngineError
        raise kind_of(said[-1] if said else f"the {kind} in {folder} ended {what}")


def main() -> None:
    """Run what the standard input asks for; an error is one line of the output."""
    asked = json.load(sys.stdin)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != asked["parent"]:
            raise SystemExit(INTERRUPTED)
    try:
        request, resources = api.Request.from_dict(asked["request"]), Resources(**asked["resources"])
        prepared = api.prepare(asked["kind"], asked["folder"], request, resources)
        api.execute(prepared, progress=asked["progress"])
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        named = "" if isinstance(error, EngineError) else f"{type(error).__name__}: "
        print(named + (str(error).splitlines() or ["no message"])[0])
        raise SystemExit(BUSY if isinstance(error, RunBusy) else 1) from None


if __name__ == "__main__":
    main()
