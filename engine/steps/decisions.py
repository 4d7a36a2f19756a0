"""Steps of what people decided: rows of the pairs, scores corrected by them, and clusters that are held to them.

P pairs, N rows or vertices. A person's answers reach a run in three steps: ``answers`` reads them, ``recalibration``
corrects scores that are probabilities, and ``held`` makes whatever clusters a partition gives keep every pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash

from engine.clustering.decided import contradiction, hold
from engine.clustering.evidence import CERTAIN, log_odds
from engine.errors import DataError
from engine.learning.recalibration import CHOSEN_WEIGHT, recalibrate
from engine.runs.step import Facts, Step, Task, where
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_vertex
from engine.steps.edges import SCORED, EdgeFacts, Scores, iterate_edges, read_edges
from engine.steps.ingest import Rows, row_column, zero_rows
from engine.steps.knn import Order, vertex_rows
from engine.storage.cache import local_copy
from engine.storage.decisions import Decision, find_rows, read_decisions
from engine.storage.remote import absolute

ASKED = ("", "merge", "split", "sample")  # by the number that stands for it
FEWEST_ANSWERS = 10  # about pairs that are edges, below which scores stay as they are
_BINS = 40


def settle(decisions: Iterable[Decision], path: str, *, first: int = 0) -> list[Decision]:
    """Keep the last word on each pair, unless it is that nothing is known, in the order of the pairs' last words.

    ``first``: the number of the first entry; those below 0 stand in no file. Raises ``DataError`` naming the chain of
    rows if the pairs contradict each other.
    """
    last: dict[tuple[str, str], tuple[int, Decision]] = {}
    for number, each in enumerate(decisions, first):
        last.pop(pair := (min(each.a, each.b), max(each.a, each.b)), None)
        last[pair] = number, each
    kept = [(number, each) for number, each in last.values() if each.decision not in ("unsure", "withdrawn")]
    joined = [(number, each) for number, each in kept if each.decision != "different"]
    apart = [(number, each) for number, each in kept if each.decision == "different"]
    names = sorted({name for _, each in kept for name in (each.a, each.b)})
    places = {name: place for place, name in enumerate(names)}

    def pairs(entries: list[tuple[int, Decision]]) -> np.ndarray:
        return np.array([(places[each.a], places[each.b]) for _, each in entries], np.int64).reshape(-1, 2)

    found = contradiction(len(names), pairs(joined), pairs(apart))
    if found is not None:
        number, entry = apart[found[0]]
        chain = ", ".join(f"{each.a} = {each.b} ({_entry(n)})" for n, each in (joined[place] for place in found[1]))
        raise DataError(
            f"{path}: rows {entry.a} and {entry.b} were decided to be different ({_entry(number)}), but others make "
            f"them the same: {chain or 'they are one row'}; withdraw one of these"
        )
    return [each for _, each in kept]


def _entry(number: int) -> str:
    return f"entry {number}" if number >= 0 else "held already"


@dataclass(frozen=True)
class DecisionFile:
    """A file of decisions: where it is, and a digest of what holds in the end, not of who said so and when."""

    path: str
    digest: str

    @classmethod
    def describe(cls, path: str | None) -> DecisionFile | None:
        """Read a file at a path or URL, and refuse what contradicts itself; ``None`` for no path."""
        if path is None:
            return None
        return cls(absolute(path), _digest(settle(read_decisions(local_copy(path)), path)))


def _digest(settled: list[Decision]) -> str:
    text = sorted(f"{each.decision} {each.a!r} {each.b!r} {each.asked} {each.chance}" for each in settled)
    return xxhash.xxh3_128("\n".join(text).encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class AnswerFacts:
    """How many pairs were decided to be the same, and different."""

    same: int
    different: int
    confirmed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers(Step[AnswerFacts]):
    """The decided pairs by source row.

    ``pairs`` (P, 2) int64, ``same`` (P,) bool, ``confirmed`` (P,) bool, ``asked`` (P,) int8 (a place in ``ASKED``) and
    ``chance`` (P,) float32, NaN where none was told. ``decisions``: the digest of the file.
    """

    kind, version, title = "decisions.answers", 1, "answers"
    facts = AnswerFacts
    rows: Rows
    decisions: str
    zero_vectors: str
    decisions_path: str = where()

    def cost(self) -> Cost:
        """Project the column of ids."""
        return Cost(fixed_bytes=self.rows.num_rows * 64 + (16 << 20), disk_bytes=1 << 20, seconds=1)

    def run(self, task: Task, start: int, stop: int) -> AnswerFacts:
        """Find the rows. Raises ``DataError`` for an id that no row has, or of a zero vector that was left out."""
        path = self.decisions_path
        settled = settle(read_decisions(path), path)
        if _digest(settled) != self.decisions:
            raise DataError(f"{path}: changed while the run was planned; start the run again")
        folder, num_rows = task.input(self.rows), self.rows.num_rows
        names = sorted({name for each in settled for name in (each.a, each.b)})
        rows = dict(zip(names, find_rows(row_column(folder, "id"), names, num_rows, path).tolist(), strict=True))
        if self.zero_vectors == "drop":
            dropped = set(zero_rows(folder).tolist())
            for name, row in rows.items():
                if row in dropped:
                    raise DataError(f"{path}: names row {name!r}, a zero vector, which --zero-vectors drop leaves out")
        pairs = [(rows[each.a], rows[each.b]) for each in settled]
        same = np.array([each.decision != "different" for each in settled], bool)
        confirmed = np.array([each.decision == "confirmed" for each in settled], bool)
        chances = [np.nan if each.chance is None else each.chance for each in settled]
        task.write_npy("pairs", np.array(pairs, np.int64).reshape(-1, 2))
        task.write_npy("same", same)
        task.write_npy("confirmed", confirmed)
        task.write_npy("asked", np.array([ASKED.index(each.asked or "") for each in settled], np.int8))
        task.write_npy("chance", np.array(chances, np.float32))
        counts = (int((same & ~confirmed).sum()), int((~same).sum()), int(confirmed.sum()))
        return AnswerFacts(*counts)


def answered_pairs(task: Task, answers: Answers, order: Order | None) -> tuple[np.ndarray, np.ndarray]:
    """Read the decided pairs (P, 2) by vertex, and whether each is the same (P,)."""
    pairs = np.array(task.npy(answers, "pairs"))
    if order is not None:
        rows_V = vertex_rows(task, order)
        vertex_N = np.empty(len(rows_V), np.int64)
        vertex_N[rows_V] = np.arange(len(rows_V))
        pairs = vertex_N[pairs]
    return pairs, np.array(task.npy(answers, "same"))


@dataclass(frozen=True)
class Recalibrated:
    """Slope and offset of the log-odds, and the number of answers about edges that they follow from."""

    slope: float
    offset: float
    answers: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Recalibration(Step[Recalibrated]):
    """How far a person's answers move scores that are probabilities.

    Answers about pairs that were drawn at random count in full. Others count as ``CHOSEN_WEIGHT``, because a pair that
    was picked for its doubts is more often wrong than its score says. Members of confirmed clusters do not count.
    """

    kind, version, title = "decisions.recalibration", 1, "recalibration"
    facts = Recalibrated
    score: Scores
    answers: Answers
    order: Order | None

    def cost(self) -> Cost:
        """Project a pass over the edges."""
        n = self.score.num_rows
        return Cost(fixed_bytes=n * 16 + (64 << 20), disk_bytes=4096, seconds=n * self.score.knn.k / 2e7)

    def run(self, task: Task, start: int, stop: int) -> Recalibrated:
        """Look up the scores of the answered pairs, and fit."""
        pairs, same = answered_pairs(task, self.answers, self.order)
        told = ~np.asarray(task.npy(self.answers, "confirmed"))
        drawn = np.asarray(task.npy(self.answers, "asked")) == ASKED.index("sample")
        pairs, same, weights = pairs[told], same[told], np.where(drawn[told], 1.0, CHOSEN_WEIGHT)
        keys = pairs.min(axis=1) * self.score.num_rows + pairs.max(axis=1)
        order = np.argsort(keys, kind="stable")
        keys, same, weights = keys[order], same[order], weights[order]
        if len(keys) < FEWEST_ANSWERS:
            return Recalibrated(1.0, 0.0, len(keys))
        odds = np.full(len(keys), np.nan)
        most = float(log_odds(CERTAIN))
        counts = np.zeros(_BINS)
        for sources, targets, scores in iterate_edges(task.input(self.score), SCORED):
            edges = np.minimum(sources, targets).astype(np.int64) * self.score.num_rows + np.maximum(sources, targets)
            held = np.minimum(np.searchsorted(keys, edges), len(keys) - 1)
            hit = np.flatnonzero(keys[held] == edges)
            odds[held[hit]] = log_odds(scores[hit])
            better = log_odds(scores[scores >= np.float32(0.5)])
            counts += np.histogram(better, _BINS, (0, most))[0]
        known = ~np.isnan(odds)
        if known.sum() < FEWEST_ANSWERS:
            return Recalibrated(1.0, 0.0, int(known.sum()))
        middles = (np.arange(_BINS) + 0.5) * (most / _BINS)
        slope, offset = recalibrate(odds[known], same[known], weights[known], middles, counts)
        return Recalibrated(slope, offset, int(known.sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class AnsweredScores(Scores):
    """The same edges, with log-odds corrected by answers."""

    kind, version, title = "decisions.score", 1, "answered"
    score: Scores
    recalibration: Recalibration

    def cost(self) -> Cost:
        """Project what the scores take on disk."""
        return replace(self.score.cost(), seconds=self.num_rows * self.knn.k / 1e7, gpu_speed=0.0)

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        found = task.facts(self.recalibration)
        chunks = read_edges(task.input(self.score), start, stop, ("score",))

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            scores = next(chunks)[0]
            if found.slope == 1 and not found.offset:
                return scores
            return (1 / (1 + np.exp(-found.slope * log_odds(scores) - found.offset))).astype(np.float32)

        return self.write(task, start, stop, give)


def correct(score: Scores, answers: Answers, order: Order | None) -> AnsweredScores:
    """The steps that correct scores by answers."""
    shared: dict[str, Any] = {name: getattr(score, name) for name in ("num_rows", "knn", "min_similarity")}
    found = Recalibration(score=score, answers=answers, order=order)
    return AnsweredScores(score=score, recalibration=found, max_edges_per_vertex=score.max_edges_per_vertex, **shared)


@dataclass(frozen=True)
class HeldFacts:
    """How many pairs the partition had apart and should not have, and how many together."""

    joined: int
    parted: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Held(Step[HeldFacts]):
    """Clusters held to all decided pairs: ``roots`` (N,), as a partition writes them. Copies are among them already."""

    kind, version, title = "decisions.held", 1, "held"
    facts = HeldFacts
    roots: Step[Facts]
    score: Scores
    answers: Answers
    order: Order | None
    copies: Copies | None

    def cost(self) -> Cost:
        """Project the vertices, and the edges of the clusters that a pair names."""
        n = self.score.num_rows
        return Cost(fixed_bytes=n * 80 + (256 << 20), disk_bytes=n * 4, seconds=n * self.score.knn.k / 2e7)

    def run(self, task: Task, start: int, stop: int) -> HeldFacts:
        """Hold the clusters."""
        before = np.array(task.npy(self.roots, "roots"))
        leaders_V = None
        if self.copies is not None:
            leaders_V = np.asarray(leaders_by_vertex(task, self.copies, self.order))
            before = before[leaders_V]
        pairs, same = answered_pairs(task, self.answers, self.order)
        named_V = np.zeros(len(before), bool)
        named_V[before[pairs.ravel()]] = True
        named_V = named_V[before]
        found = [
            tuple(column[named_V[edges[0]] & named_V[edges[1]]] for column in edges)
            for edges in iterate_edges(task.input(self.score), SCORED)
        ]
        if leaders_V is not None:
            copies = np.flatnonzero((leaders_V != np.arange(len(leaders_V))) & named_V)
            found.append((leaders_V[copies], copies.astype(np.int32), np.ones(len(copies), np.float32)))
        sources, targets, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        even = float(task.facts(self.roots).get("min_score") or 0.5)
        task.write_npy("roots", hold(before, pairs[same], pairs[~same], sources, targets, scores, even))
        together = before[pairs[:, 0]] == before[pairs[:, 1]]
        return HeldFacts(int((same & ~together).sum()), int((~same & together).sum()))
