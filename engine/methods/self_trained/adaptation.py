"""How far a trained model's scores fit the rows at hand, told by the two opinions that need no labels.

A model of other data ranks edges well, but more rows and so more strangers, other densities or another kind of data
move the odds that it should give. The opinions see the rows at hand. What brings the model's log-odds nearest to what
they say moves them by nearly as much as the truth would (docs/decisions/0034).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.clustering.evidence import CERTAIN, log_odds
from engine.clustering.label_free import LEAST_PROBABILITY, NOTHING_FOUND, ODDS_IN_DOUBT
from engine.methods.base import Graph
from engine.methods.self_trained.method import counted_once, opinions, without_copies
from engine.methods.self_trained.steps import Agreed
from engine.methods.structural.scorer import calibrate_counts
from engine.runs.step import Facts, Step, Task
from engine.settings import Settings
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_vertex
from engine.steps.edges import SCORED, EdgeFacts, Scores, iterate_edges, read_edges
from engine.steps.knn import Order

_BINS = 1_024  # of log-odds, between those of certain edges


@dataclass(frozen=True)
class Said:
    """What opinions say of log-odds: slope and offset that bring these nearest, and what to add to them in the end."""

    slope: float
    offset: float
    shift: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Saying(Step[Said]):
    """What both opinions say of a model's scores.

    The shift puts even odds where the opinions have them, but takes no edge further than half of the way from certain
    to even. It is 0 if it is below ``ODDS_IN_DOUBT``: opinions are no surer than that, and on data like that of its
    training the model knows better. It is 0, too, if one opinion joins next to nothing: then it cannot tell, and does
    not say that all edges are false.
    """

    kind, version, title = "adaptation.said", 2, "said"
    facts = Said
    score: Scores
    first: Agreed
    copies: Copies
    order: Order | None

    def cost(self) -> Cost:
        """Project a pass over the edges."""
        n = self.score.num_rows
        return Cost(fixed_bytes=n * 8 + (64 << 20), disk_bytes=4096, seconds=n * self.score.knn.k / 1e7)

    def run(self, task: Task, start: int, stop: int) -> Said:
        """Count edges, and what is said of them, by their log-odds."""
        leaders_N = leaders_by_vertex(task, self.copies, self.order)
        opinions_2N = np.asarray(task.npy(self.first, "opinions"))[:, leaders_N]
        most = float(log_odds(CERTAIN))
        counts, joined_2B = np.zeros(_BINS), np.zeros((2, _BINS))
        for sources, targets, scores in iterate_edges(task.input(self.score), SCORED):
            places = np.minimum(((log_odds(scores) + most) * (_BINS / (2 * most))).astype(np.int64), _BINS - 1)
            counts += np.bincount(places, minlength=_BINS)
            for joined_B, roots_N in zip(joined_2B, opinions_2N, strict=True):
                joined_B += np.bincount(places[roots_N[sources] == roots_N[targets]], minlength=_BINS)
        middles = (np.arange(_BINS) + 0.5) * (2 * most / _BINS) - most
        slope, offset = calibrate_counts(middles, joined_2B.mean(axis=0), counts)
        shift = float(np.clip(offset / slope, -most / 2, most / 2))
        joined_2 = joined_2B.sum(axis=1)
        if abs(shift) < ODDS_IN_DOUBT or joined_2.min() < NOTHING_FOUND * joined_2.max():
            shift = 0.0
        return Said(slope, offset, shift)


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptedScores(Scores):
    """The model's edges, with log-odds moved by what the opinions say."""

    kind, version, title = "adaptation.score", 1, "adapted"
    score: Scores
    said: Saying

    def cost(self) -> Cost:
        """Project what the model's scores take on disk."""
        return replace(self.score.cost(), seconds=self.num_rows * self.knn.k / 1e7, gpu_speed=0.0)

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        shift = task.facts(self.said).shift
        chunks = read_edges(task.input(self.score), start, stop, ("score",))

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            scores = next(chunks)[0]
            return (1 / (1 + np.exp(-shift - log_odds(scores)))).astype(np.float32) if shift else scores

        return self.write(task, start, stop, give)


@dataclass(frozen=True, kw_only=True, eq=False)
class MovedPoint(Step[Facts]):
    """``point.json``: the model's least score; even odds where its scores were moved, as it knew none of these rows."""

    kind, version, title = "adaptation.point", 1, "moved"
    said: Saying
    stored: float

    def cost(self) -> Cost:
        """Project next to nothing."""
        return Cost(disk_bytes=4096)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Choose."""
        facts: Facts = {"min_score": LEAST_PROBABILITY if task.facts(self.said).shift else self.stored}
        task.write_json("point", facts)
        return facts


def adapt(graph: Graph, settings: Settings, score: Scores) -> AdaptedScores:
    """The step that corrects a model's scores for the rows at hand."""
    graph = replace(graph, prefix="opinion_")
    listed, copies = counted_once(graph, settings.seed)
    first = opinions(without_copies(graph, copies), settings, copies, listed)
    said = Saying(score=score, first=first, copies=copies, order=graph.order)
    return AdaptedScores(
        num_rows=score.num_rows,
        knn=score.knn,
        min_similarity=score.min_similarity,
        max_edges_per_vertex=score.max_edges_per_vertex,
        score=score,
        said=said,
    )
