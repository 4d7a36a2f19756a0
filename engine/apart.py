"""A plan run in a process of its own: its seconds and memory owe nothing to what ran before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from engine import api
from engine.config import Resources
from engine.errors import EngineError

INTERRUPTED = 130


def execute_apart(kind: api.Kind, folder: Path, request: api.Request, resources: Resources, *, progress: bool) -> None:
    """Prepare and run; raises ``EngineError`` with the first line of what it failed of: the folder's events have all.

    An interrupt ends the process too; what was committed is kept.
    """
    asked = {
        "kind": kind, "folder": str(folder), "request": request.as_dict(), "resources": resources.model_dump(),
        "progress": progress,
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "engine.apart"], input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if ended.returncode:
        said = ended.stdout.strip().splitlines()
        what = f"by signal {-ended.returncode}, for want of memory?" if ended.returncode < 0 else ended.returncode
        raise EngineError(said[-1] if said else f"the {kind} in {folder} ended {what}")


def main() -> None:
    """Run what the standard input asks for; an error is one line of the output."""
    asked = json.load(sys.stdin)
    try:
        request, resources = api.Request.from_dict(asked["request"]), Resources(**asked["resources"])
        prepared = api.prepare(asked["kind"], asked["folder"], request, resources)
        api.execute(prepared, progress=asked["progress"])
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        named = "" if isinstance(error, EngineError) else f"{type(error).__name__}: "
        print(named + (str(error).splitlines() or ["no message"])[0])
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
