"""A review in progress: questions in order, answers written down at once, undo, and what an application changed."""

from __future__ import annotations

import datetime
import getpass
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.resources import Resources
from engine.errors import ConfigError, DataError, EngineError
from engine.evaluation.changes import changes
from engine.evaluation.questions import SAMPLE
from engine.review.catalogue import Catalogue, Tree
from engine.review.subjects import reviewed
from engine.storage import manifest
from engine.storage.decisions import DECISIONS_FILE, Decision, append_decisions, read_decisions
from engine.storage.remote import is_url

SAMPLE_EVERY = 5  # each fifth question is about a pair drawn at random
ANSWERS = ("same", "different", "unsure")


class Session:
    """What one page, or several pages of one person, do to one run. Every call may come from another thread."""

    def __init__(self, root: Path, decisions: Path | None, resources: Resources) -> None:
        self._lock = threading.RLock()
        self.root, self.path = root, decisions_path(root, decisions)
        self._subject = reviewed(root, self.path, resources)
        self._said = read_decisions(self.path) if self.path.exists() else []
        self.catalogue = self._subject.catalogue(self._said)
        self._done: list[list[Decision]] = []  # what puts back each answer of this review
        self._held = _pairs(self._subject.held(self._said))
        self._applying = ""
        self._changes: Tree | None = None
        self._failure = ""
        self._skipped: set[int] = set()
        self._arrange()

    def state(self) -> Tree:
        """Describe how far the review is."""
        with self._lock:
            worth = self.catalogue.questions["worth"]
            left = worth[self._queue].sum()
            return {
                "run": str(self.root),
                "decisions": str(self.path),
                "rows": self.catalogue.num_rows,
                "clusters": self.catalogue.num_clusters,
                "answered": len(self._done),
                "unapplied": len(_pairs(self._subject.settled(self._said)) ^ self._held),
                "left": len(self._queue),
                "done": 1 - float(left / worth.sum()) if worth.sum() > 0 else 1.0,
                "applying": self._applying,
                "failure": self._failure,
                "changes": self._changes,
            }

    def question(self) -> Tree | None:
        """Describe the next question, of a pair that no answer tells about yet; ``None`` if there is none."""
        with self._lock:
            return self.catalogue.question(self._queue[0]) if self._queue else None

    def answer(self, rows: Sequence[int], decision: str, place: int | None = None) -> None:
        """Write down an answer about two rows. Raises ``DataError`` if it contradicts others, and writes nothing."""
        if decision not in ANSWERS:
            raise ConfigError(f"decision: expected one of {', '.join(ANSWERS)}, got {decision!r}")
        with self._lock:
            self._refuse_while_applying()
            asked, chance = None, None
            if place is not None and self._asked_at(place, rows):
                kind = int(self.catalogue.questions["kind"][place])
                asked, chance = ("split", "merge", "sample")[kind], float(self.catalogue.questions["said"][place])
                self._skipped.add(place)
            self._add([self._entry(decision, rows[0], rows[1], asked, chance)])

    def confirm(self, labels: Sequence[int]) -> None:
        """Write down that all rows of these clusters are one identity."""
        with self._lock:
            self._refuse_while_applying()
            rows = np.unique(np.concatenate([self.catalogue.members(label) for label in labels] or [np.empty(0, int)]))
            if len(rows) < 2:
                raise DataError(f"cluster {', '.join(map(str, labels))} has one row: there is nothing to confirm")
            medoid = self.catalogue.medoid(rows)
            self._add([self._entry("confirmed", medoid, row) for row in rows.tolist() if row != medoid])

    def undo(self) -> None:
        """Take back the last answer of this review, or the last confirmed cluster."""
        with self._lock:
            self._refuse_while_applying()
            if not self._done:
                raise DataError("nothing was answered yet in this review")
            self._write([replace(each, when=_now()) for each in self._done.pop()])
            self._skipped.clear()
            self._arrange()

    def _backwards(self, entries: list[Decision]) -> list[Decision]:
        """Return the entries that put back what is said of the same pairs now."""
        known = [*self._subject.held(self._said), *self._said]
        last = {frozenset((each.a, each.b)): each.decision for each in known}
        return [
            replace(each, decision=last.get(frozenset((each.a, each.b)), "withdrawn"), asked=None, chance=None)
            for each in entries
        ]

    def apply(self, wait: bool = False) -> None:
        """Make the clusters again from stored scores with all answers, in a thread of its own."""
        with self._lock:
            self._refuse_while_applying()
            self._applying, self._failure = "Clusters are made from stored scores.", ""
        thread = threading.Thread(target=self._apply, daemon=True)
        thread.start()
        if wait:
            thread.join()

    def read(self, describe: Callable[[Catalogue], Any]) -> Any:
        """Read something of the run's present clusters."""
        with self._lock:
            return describe(self.catalogue)

    def _apply(self) -> None:
        started = time.monotonic()
        try:
            with self._lock:
                before, said = np.array(self.catalogue.labels_N), list(self._said)
                unapplied = _pairs(self._subject.settled(said)) != self._held
            if unapplied:
                self._subject.apply()
            catalogue = self._subject.catalogue(said)
            told = changes(before, catalogue.labels_N)
            with self._lock:
                self.catalogue, self._held = catalogue, _pairs(self._subject.held(said))
                self._skipped.clear()
                self._arrange()
                self._changes = {**told, "seconds": time.monotonic() - started}
        except (EngineError, OSError) as error:
            self._failure = str(error)
        finally:
            self._applying = ""

    def _refuse_while_applying(self) -> None:
        if self._applying:
            raise DataError("answers are being applied; one moment")

    def _entry(self, decision: Any, row: int, other: int, asked: Any = None, chance: float | None = None) -> Decision:
        for each in (row, other):
            if not 0 <= each < self.catalogue.num_rows:
                raise DataError(f"there is no row {each}; rows go from 0 to {self.catalogue.num_rows - 1}")
        if row == other:
            raise DataError(f"row {row} is the same as itself; expected two rows")
        ids = self.catalogue.id_of(row), self.catalogue.id_of(other)
        return Decision(decision, *ids, _who(), _now(), str(self.root), asked, chance)

    def _add(self, entries: list[Decision]) -> None:
        self._subject.settled([*self._said, *entries])
        back = self._backwards(entries)
        self._write(entries)
        self._done.append(back)
        self._arrange()

    def _write(self, entries: list[Decision]) -> None:
        append_decisions(self.path, entries)
        self._said += entries

    def _asked_at(self, place: int, rows: Sequence[int]) -> bool:
        names = ("row", "other_row")
        known = 0 <= place < len(self.catalogue.questions["row"])
        return known and sorted(rows) == sorted(int(self.catalogue.questions[name][place]) for name in names)

    def _arrange(self) -> None:
        """Order the questions that are open: a sample after each four others, and none that answers tell about."""
        told = _Told(self._subject.settled(self._said))
        kinds = self.catalogue.questions["kind"]
        pairs = list(
            zip(self.catalogue.questions["row"].tolist(), self.catalogue.questions["other_row"].tolist(), strict=True)
        )
        name = self.catalogue.id_of if told.known else str
        open_places = [
            place
            for place, (row, other) in enumerate(pairs)
            if place not in self._skipped and not (told.known and told.tells(name(row), name(other)))
        ]
        samples = [place for place in open_places if kinds[place] == SAMPLE]
        others = [place for place in open_places if kinds[place] != SAMPLE]
        queue: list[int] = []
        for number, place in enumerate(others):
            if number and number % (SAMPLE_EVERY - 1) == 0 and samples:
                queue.append(samples.pop(0))
            queue.append(place)
        self._queue = queue + samples


class _Told:
    """What settled answers say of pairs, also by way of others."""

    def __init__(self, settled: list[Decision]) -> None:
        self.known = bool(settled)
        self._parents: dict[str, str] = {}
        for each in settled:
            if each.decision != "different":
                self._parents[self._root(each.a)] = self._root(each.b)
        self._apart = {
            frozenset((self._root(each.a), self._root(each.b))) for each in settled if each.decision == "different"
        }

    def tells(self, a: str, b: str) -> bool:
        roots = self._root(a), self._root(b)
        return roots[0] == roots[1] or frozenset(roots) in self._apart

    def _root(self, name: str) -> str:
        while (parent := self._parents.get(name, name)) != name:
            name = parent
        return name


def _pairs(settled: list[Decision]) -> set[tuple[str, str, bool]]:
    """Return what entries come to, pair by pair."""
    return {(min(each.a, each.b), max(each.a, each.b), each.decision != "different") for each in settled}


def decisions_path(root: Path, given: Path | None) -> Path:
    """Return the file that answers go to: the one given, else the run's own, else one in the run's folder.

    Raises ``ConfigError`` for a URL, because answers are written at once.
    """
    held = manifest.read_run(root)["request"].get("decisions")
    place = str(given) if given is not None else held
    if place is None:
        return root / DECISIONS_FILE
    if is_url(place):
        raise ConfigError(f"{place}: answers are written to a file of this machine; name one with --decisions")
    return Path(place).absolute()


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return "unknown"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
