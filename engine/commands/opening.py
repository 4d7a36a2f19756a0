"""A finished run opened as a collection: its folder, what it keeps, and its last version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.collection.kept import Kept, kept_by_run
from engine.collection.versions import Version, current_version
from engine.commands.request import Request
from engine.commands.resolution import resolve
from engine.commands.run_folder import open_run, refuse_others
from engine.errors import ConfigError, DataError
from engine.steps.source import Source
from engine.storage import manifest
from engine.storage.remote import is_url


def open_collection(root: str | Path) -> tuple[Path, Version]:
    """Open the last version of a run's collection. Raises ``DataError`` or ``ConfigError`` if it has none."""
    here = local_run(root)
    return here, current_version(here, lambda: kept_of(here))


def kept_of(here: Path) -> Kept:
    """What the full run in a folder keeps."""
    refuse_others(here)
    held = manifest.read_run(here)
    if held["state"] != "finished":
        raise DataError(f"{here} is not finished: asterism resume {here}")
    request = replace(Request.from_dict(held["request"]), labels=None)
    settings, _, build = resolve("run", request, Source(**held["request"]["source"]))
    return kept_by_run(here, build(settings), settings)


def local_run(root: str | Path) -> Path:
    """The folder of a run. Raises ``ConfigError`` for a URL."""
    if is_url(root):
        raise ConfigError(f"{root}: a collection lies in a folder; copy the run to one")
    return open_run(root)
