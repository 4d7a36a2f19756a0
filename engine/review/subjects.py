"""What is reviewed: a finished run, or a run that lives on; how answers are applied to it, and which it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from engine.collection.answers import without_rows
from engine.collection.versions import finished_updates
from engine.commands.collection_tables import CollectionTables
from engine.commands.execution import execute
from engine.commands.preparation import prepare
from engine.commands.request import Request
from engine.commands.resources import Resources
from engine.commands.updates import update
from engine.review.catalogue import Catalogue
from engine.review.contents import collection_contents, run_contents
from engine.steps.decisions import DecisionFile, settle
from engine.storage import manifest
from engine.storage.decisions import Decision


class Subject(Protocol):
    """What a session asks of the run that it reviews. ``said``: the entries of its file of decisions."""

    def catalogue(self, said: Sequence[Decision]) -> Catalogue:
        """Open the present clusters."""

    def settled(self, said: Sequence[Decision]) -> list[Decision]:
        """Return all that would hold after an application; raises ``DataError`` for a contradiction."""

    def held(self, said: Sequence[Decision]) -> list[Decision]:
        """Return what the present clusters hold."""

    def apply(self) -> None:
        """Make clusters that hold what the file says."""


class FullRun:
    """A run that has had no update. Its questions are those of its stages."""

    def __init__(self, root: Path, path: Path, resources: Resources) -> None:
        self._root, self._path, self._resources = root, path, resources

    def catalogue(self, said: Sequence[Decision]) -> Catalogue:
        return Catalogue(run_contents(self._root))

    def settled(self, said: Sequence[Decision]) -> list[Decision]:
        return settle(said, str(self._path))

    def held(self, said: Sequence[Decision]) -> list[Decision]:
        """All of the file or nothing: the run was made with the file as it is, or not."""
        stages = manifest.read_run(self._root)["plan"]["stages"]
        made = next((stage["params"]["decisions"] for stage in stages if stage["name"] == "answers"), None)
        found = DecisionFile.describe(str(self._path)) if said else None
        return self.settled(said) if made == (found.digest if found else None) else []

    def apply(self) -> None:
        """Go on with the run from its stored scores."""
        held = manifest.read_run(self._root)
        request = Request.from_dict({**held["request"], "decisions": str(self._path)})
        execute(prepare("run", self._root, request, self._resources), progress=False)


class LivingRun:
    """The last version of a collection. Its questions are chosen when it is opened; an application is an update."""

    def __init__(self, root: Path, path: Path, resources: Resources) -> None:
        self._root, self._path, self._resources = root, path, resources
        self._collection = CollectionTables(root, threads=resources.threads)

    def catalogue(self, said: Sequence[Decision]) -> Catalogue:
        self._collection = CollectionTables(self._root, threads=self._resources.threads)
        return Catalogue(collection_contents(self._collection, self.settled(said)))

    def settled(self, said: Sequence[Decision]) -> list[Decision]:
        """The file has the last word on a pair; what it says of rows that are gone is left out."""
        before = self.held(said)
        return settle(
            [*before, *without_rows(list(said), self._collection.state.ids)], str(self._path), first=-len(before)
        )

    def held(self, said: Sequence[Decision]) -> list[Decision]:
        """The pairs that the version holds, whichever file they came from."""
        decided = self._collection.decisions()
        columns = zip(decided["a"], decided["b"], decided["same"].tolist(), strict=True)
        return [Decision("same" if same else "different", str(a), str(b)) for a, b, same in columns]

    def apply(self) -> None:
        update(self._root, decisions=self._path, resources=self._resources, progress=False)


def reviewed(root: Path, path: Path, resources: Resources) -> Subject:
    """Give what a review of this folder is about."""
    return (LivingRun if finished_updates(root) else FullRun)(root, path, resources)
