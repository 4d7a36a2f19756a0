"""The command line: its commands in the order of ``--help``, and how an error ends the process."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn, cast

import typer

from engine.cli import collections, inspection, work
from engine.cli.options import with_groups
from engine.cli.review import review
from engine.errors import EngineError
from engine.process.masking import masked
from engine.process.terminal import let_every_name_be_printed, shown_lines
from engine.storage.paths import os_reason
from engine.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Cluster embeddings by identity: vectors in, labels out, resumable at every step. Similarity is the cosine.

    Start with: asterism run --features vectors.npy --out run
    """
    if show:
        print(__version__)
        raise typer.Exit


for command in (
    work.ingest,
    work.train,
    work.run,
    inspection.plan,
    work.compare,
    work.convert,
    work.resume,
    collections.update,
    collections.assign,
    collections.diff,
    inspection.status,
    inspection.export,
    inspection.evaluate,
    inspection.report,
    review,
    work.synth,
    inspection.settings,
    inspection.doctor,
):
    app.command()(with_groups(command))


def main() -> None:
    """Run the command line. An error is one line and exit code 2; only a defect of the engine shows a traceback."""
    let_every_name_be_printed()
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        if not error.format_message():  # typer has printed the help instead
            raise SystemExit(2) from None
        _end(2, error.format_message())
    except EngineError as error:
        _end(2, masked(str(error)))
    except BrokenPipeError:  # the reader of the output has closed it, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        _end(2, masked(_explain(error)))
    except (MemoryError, RecursionError) as error:
        what = "memory ran out" if isinstance(error, MemoryError) else "something is nested too deeply"
        _end(2, f"{what}{f' ({error})' if str(error) else ''}; what was committed is kept")
    if code:
        raise SystemExit(code)


_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])  # of click, or typer's copy of it


def _end(code: int, text: str) -> NoReturn:
    print(f"asterism: error: {shown_lines(text)}", file=sys.stderr)
    raise SystemExit(code) from None


def _explain(error: OSError) -> str:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(names)}: {os_reason(error)}" if names else os_reason(error)
