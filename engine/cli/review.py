"""The command that serves a review of a run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from engine.cli.options import Json, ResourceOptions, RunFolder
from engine.cli.printing import tell
from engine.errors import ConfigError, DependencyMissing
from engine.installation import install_hint


def review(
    *,
    folder: RunFolder,
    kept_in: Annotated[
        str | None,
        typer.Option("--decisions", help="file that answers go to; default: the run's, else decisions.parquet in RUN"),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="port on 127.0.0.1; 0: any; default: 8420 if free")
    ] = None,
    cluster: Annotated[int | None, typer.Option("--cluster", min=0, help="show this cluster first")] = None,
    resources: ResourceOptions,
    as_json: Json = False,
) -> None:
    """Serve a page, on this machine alone, that asks what a person can tell: likely merges and splits, by keyboard.

    Answers go to a file of decisions at once; applying them makes the clusters again from stored scores.
    """
    from pathlib import Path

    from engine import api
    from engine.storage.remote import is_url

    if is_url(folder):
        raise ConfigError(f"{folder}: a review writes answers and clusters at once; expected a folder of this machine")
    try:
        from engine.review.server import serve
        from engine.review.session import Session
    except ImportError as error:
        raise DependencyMissing(f"asterism review needs {error.name}: {install_hint('review')}") from None
    root = api.open_run(folder)
    given = None if kept_in is None else Path(kept_in)
    session = Session(root, given, resources.load())

    def opened(link: str) -> None:
        told = {"link": link, "answers": str(session.path)}
        tell(told, f"answers: {session.path}", f"review: {link}   (Ctrl-C ends it)", as_json=as_json)
        sys.stdout.flush()

    serve(session, port, opened, cluster)
