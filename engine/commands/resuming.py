"""A folder's work is taken up again, be it a run, a store, a training or an update of a collection."""

from __future__ import annotations

from pathlib import Path

from engine.collection.versions import rows_removed, update_numbers
from engine.commands.committed import all_committed
from engine.commands.execution import execute
from engine.commands.preparation import Prepared, prepare
from engine.commands.request import Request
from engine.commands.resources import Resources
from engine.commands.run_folder import open_run
from engine.commands.updates import Update, resume_update
from engine.storage import manifest


def resume(root: str | Path, resources: Resources | None = None, *, progress: bool = True) -> Prepared | Update:
    """Run a folder again from what its manifest says; committed work is skipped.

    Of a collection, what its full run has lost is computed again, and the update that is not finished is taken up; what
    is told is of the last update.
    """
    here = open_run(root)
    held, updated = manifest.read_run(here), bool(update_numbers(here))
    if updated and (rows_removed(here) or all_committed(here, held)):
        return resume_update(here, resources, progress=progress)
    prepared = prepare(held["kind"], root, Request.from_dict(held["request"]), resources, mends=updated)
    execute(prepared, progress=progress, report=not updated)
    return resume_update(here, resources, progress=progress) if updated else prepared
