"""What the jobs share: their arguments, exit codes, and the lines at their end.

A job ends with 0 when it is done; with 2 when it was refused, so that submitting it again unchanged is of no use; with
1 when it failed on the way or another works on the run, and with 130 (Ctrl-C) or 143 (SIGTERM) when it was stopped.
After these, submit it again with the same ``--out``: what is committed is kept. ``ray job submit`` itself ends with 1
for all that failed, and with 0 for a job that was stopped: the job's last line says which.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from engine.api import open_run
from engine.commands.configuration import parse_overrides
from engine.commands.resources import load_resources
from engine.errors import DiskBudgetExceeded, EngineError, RunBusy, StorageFailed, TaskFailed
from engine.process.masking import masked
from engine.process.terminal import let_every_name_be_printed, shown, shown_lines
from engine.runs.effort import run_effort

AGAIN = "submit it again with the same --out: what was committed is kept"
DONE, FAILED, REFUSED = 0, 1, 2


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with what every job takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", help="YAML file of settings and resources, as in cluster_configs/, or a preset")
    parser.add_argument(
        "--out", required=True, help="folder that every host sees, or URL, to write; given again, it resumes"
    )
    parser.add_argument("--set", action="append", default=[], help="one setting, for example knn.k=40; may be repeated")
    return parser


def add_source(parser: argparse.ArgumentParser) -> None:
    """What a job takes that reads vectors."""
    parser.add_argument(
        "--features", required=True, help="vectors in any supported format, at a path that every host sees or a URL"
    )
    parser.add_argument("--dim", type=int, help="dimensions of a .bin file")


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings of ``--set``, and the method where the job takes one, as ``cluster`` and ``train`` take them."""
    method = getattr(arguments, "method", None)
    return parse_overrides(arguments.set) | ({"method": method} if method else {})


def run_job(job: Callable[[], None]) -> int:
    """Run a job's work and return its exit code; errors are one line each."""
    let_every_name_be_printed()
    try:
        job()
    except (TaskFailed, StorageFailed, DiskBudgetExceeded, RunBusy) as error:
        return _end(FAILED, f"failed: {error}\n{AGAIN}")
    except EngineError as error:
        return _end(REFUSED, f"refused: {error}")
    except OSError as error:
        return _end(FAILED, f"failed: {type(error).__name__}: {error}\n{AGAIN}")
    return DONE


def _end(code: int, text: str) -> int:
    print(shown_lines(masked(text)), file=sys.stderr, flush=True)
    return code


def announce(arguments: argparse.Namespace) -> None:
    """Say what is about to run, and where."""
    resources = load_resources(arguments.config)
    line = f"executor {resources.executor}, config {arguments.config or 'none'}, out {arguments.out}"
    print(shown(masked(line)), flush=True)


def print_effort(out: str) -> None:
    """Where the tasks ran, what was done again, what was lost."""
    print(shown(run_effort(open_run(out))), flush=True)
