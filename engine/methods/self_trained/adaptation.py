"""How far the scores of a trained model fit the rows at hand, told by the two opinions that need no labels.

More rows than in training, so more strangers, other densities or another kind of data move the odds that a model
should give. The opinions are wrong, too, but alike: what they say of a model's scores where it was trained, and what
they say of them in a run, differ by what the model does not know. That difference is taken away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.clustering.evidence import CERTAIN, log_odds
from engine.learning.held_out import hold_out
from engine.methods.base import Graph
from engine.methods.model_card import Said
from engine.methods.self_trained.method import opinions
from engine.methods.self_trained.steps import Agreed
from engine.methods.structural.scorer import calibrate_counts
from engine.partitions.select import Select
from engine.runs.step import Step, Task
from engine.settings import Settings
from engine.stages import Cost
from engine.steps.edges import SCORED, EdgeFacts, Scores, iterate_edges, read_edges
from engine.steps.knn import Order
from engine.steps.labels import Labelled, OutsideFile
from engine.storage.manifest import read_json

_BINS = 1_024  # of log-odds, between those of certain edges


@dataclass(frozen=True, kw_only=True, eq=False)
class Saying(Step[Said]):
    """What both opinions say of scores: the slope and offset that bring their log-odds nearest to it."""

    kind, version, title = "adaptation.said", 1, "said"
    facts = Said
    score: Scores
    first: Agreed

    def cost(self) -> Cost:
        """Project a pass over the edges."""
        n = self.score.num_rows
        return Cost(fixed_bytes=n * 8 + (64 << 20), disk_bytes=4096, seconds=n * self.score.knn.k / 1e7)

    def run(self, task: Task, start: int, stop: int) -> Said:
        """Count edges, and what is said of them, by their log-odds."""
        opinions_2N = np.asarray(task.npy(self.first, "opinions"))
        most = float(log_odds(CERTAIN))
        counts, joined = np.zeros(_BINS), np.zeros(_BINS)
        for sources, targets, scores in self.edges(task):
            places = np.minimum(((log_odds(scores) + most) * (_BINS / (2 * most))).astype(np.int64), _BINS - 1)
            said = (opinions_2N[:, sources] == opinions_2N[:, targets]).mean(axis=0)
            counts += np.bincount(places, minlength=_BINS)
            joined += np.bincount(places, said, _BINS)
        middles = (np.arange(_BINS) + 0.5) * (2 * most / _BINS) - most
        slope, offset = calibrate_counts(middles, joined, counts)
        return Said(slope=slope, offset=offset)

    def edges(self, task: Task) -> Iterator[tuple[np.ndarray, ...]]:
        """Read sources, targets and scores of the edges that count."""
        return iterate_edges(task.input(self.score), SCORED)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutSaying(Saying, Labelled[Said]):
    """The same in training: of edges with an end that is held out, as only they are scored as new rows will be.

    Of edges with one such end, all of two identities, half count, because each has two chances to be among them.
    ``select`` tells the similarity below which runs leave edges out.
    """

    select: Select
    order: Order | None

    def edges(self, task: Task) -> Iterator[tuple[np.ndarray, ...]]:
        """Read sources, targets and scores of the edges that count."""
        floor = np.float32(read_json(task.input(self.select) / "selected.json")["facts"]["min_similarity"])
        held_out_N = hold_out(self.identities(self.order, task), self.select.holdout, self.select.seed)
        for sources, targets, scores, similarities in iterate_edges(task.input(self.score), (*SCORED, "similarity")):
            first, second = held_out_N[sources], held_out_N[targets]
            drawn = (first & second) | ((first | second) & ((sources + targets) % 2 == 0))
            kept = (similarities >= floor) & drawn
            yield sources[kept], targets[kept], scores[kept]


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptedScores(Scores):
    """The model's edges, with log-odds of which the opinions say what they said of the model in training (``then``)."""

    kind, version, title = "adaptation.score", 1, "adapted"
    score: Scores
    now: Saying
    then: tuple[float, float]

    def cost(self) -> Cost:
        """Project what the model's scores take on disk."""
        return replace(self.score.cost(), seconds=self.num_rows * self.knn.k / 1e7, gpu_speed=0.0)

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        now, (slope, offset) = task.facts(self.now), self.then
        chunks = read_edges(task.input(self.score), start, stop, ("score",))

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            moved = (now.slope * log_odds(next(chunks)[0]) + now.offset - offset) / slope
            return (1 / (1 + np.exp(-moved))).astype(np.float32)

        return self.write(task, start, stop, give)


def say_in_training(graph: Graph, settings: Settings, labels: OutsideFile, select: Select) -> HeldOutSaying:
    """The step that tells what opinions without labels say of the scores of held-out identities."""
    first = opinions(replace(graph, prefix="opinion_"), settings)
    return HeldOutSaying(score=select.score, first=first, select=select, order=graph.order, **labels.given())


def adapt(graph: Graph, settings: Settings, score: Scores, then: Said) -> AdaptedScores:
    """The step that corrects a model's scores, by what was said of them in training."""
    shared: dict[str, Any] = {"num_rows": score.num_rows, "knn": score.knn, "min_similarity": score.min_similarity}
    edges = {**shared, "max_edges_per_vertex": score.max_edges_per_vertex}
    now = Saying(score=score, first=opinions(replace(graph, prefix="opinion_"), settings))
    return AdaptedScores(score=score, now=now, then=(then.slope, then.offset), **edges)
