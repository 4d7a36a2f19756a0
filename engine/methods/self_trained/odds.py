"""The odds that scores should give, told by the two opinions that need no labels.

A scorer ranks edges well, but its odds are off where it was fitted to edges that are easy to tell, or to other data.
Evidence against strangers tells well how many edges are true, but ranks them worse. So scores rank and opinions count:
even odds lie where as many edges are expected to be true as opinions expect (docs/decisions/0037).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.clustering.evidence import CERTAIN, log_odds
from engine.clustering.label_free import NOTHING_FOUND, ODDS_IN_DOUBT
from engine.methods.self_trained.steps import FILES, Agreed, FoundStrangers
from engine.methods.self_trained.strangers import Lines, edge_log_odds
from engine.methods.structural.scorer import calibrate_counts, offset_of_sum
from engine.methods.structural.steps import Fit
from engine.runs.step import Step, Task
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_vertex
from engine.steps.edges import EdgeFacts, Scores, iterate_edges, read_edges
from engine.steps.knn import Order

_BINS = 1_024  # of log-odds, between those of certain edges
_MOST = float(log_odds(CERTAIN))


@dataclass(frozen=True)
class Said:
    """What opinions say of scores: log-odds x should be ``slope (x - even)``, and ``expected`` edges are true.

    ``enough``: even odds may stay where they are.
    """

    expected: float
    slope: float
    even: float
    enough: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Saying(Step[Said]):
    """What both opinions say of scores.

    The slope brings log-odds nearest to the share of the opinions that join an edge (Platt, 1999). With it, even odds
    lie where the sum of all probabilities is the number of edges that evidence expects to be true; but no fewer than
    both opinions join, and no more than they join on average. Even odds stay where they are if that changes log-odds by
    less than ``ODDS_IN_DOUBT``, as opinions are no surer than that, and if one opinion joins next to nothing: then it
    cannot tell, and does not say that all edges are false. So they do if evidence expects fewer edges than both
    opinions join, of which the scorer has learned: then it misses some. No edge is taken further than half of the way
    from certain to even.

    ``fit`` fitted the scorer to the opinions of this run; where it learned nothing, scores are theirs already. Without
    it the scores are a model's, and stand where the data hold two answers, because the model has learned which one is
    meant. ``settling`` (2, N) are both opinions by vertex where nothing was learned: a score
    then is the evidence of one edge, which knows less than clusters do. Elsewhere, and where there was no gap, it is of
    no vertices.
    """

    kind, version, title = "odds.said", 4, "said"
    facts = Said
    score: Scores
    first: Agreed
    strangers: FoundStrangers
    copies: Copies
    order: Order | None
    fit: Fit | None

    def cost(self) -> Cost:
        """Project a pass over the edges."""
        n = self.score.num_rows
        return Cost(fixed_bytes=n * 25 + (64 << 20), disk_bytes=n * 8 + 4096, seconds=n * self.score.knn.k / 8e6)

    def run(self, task: Task, start: int, stop: int) -> Said:
        """Count edges, and what is said of them, by their log-odds."""
        leaders_V = leaders_by_vertex(task, self.copies, self.order)
        evidence_V, codelength_V = np.asarray(task.npy(self.first, "opinions"))[:, leaders_V]
        fitted = self.fit is None or bool(task.facts(self.fit)["trees"])
        settles = not fitted and not task.facts(self.first)["no_gap"]
        task.write_npy("settling", np.stack([evidence_V, codelength_V])[:, : None if settles else 0])
        lines = Lines(*(np.asarray(task.npy(self.strangers, name)) for name in FILES))
        counts_B, joined_2B = np.zeros(_BINS), np.zeros((2, _BINS))
        expected = both = 0.0
        for sources, targets, scores, similarities in iterate_edges(
            task.input(self.score), ("source", "target", "score", "similarity")
        ):
            places = np.minimum(((log_odds(scores) + _MOST) * (_BINS / (2 * _MOST))).astype(np.int64), _BINS - 1)
            by_evidence = evidence_V[sources] == evidence_V[targets]
            by_codelength = codelength_V[sources] == codelength_V[targets]
            counts_B += np.bincount(places, minlength=_BINS)
            joined_2B[0] += np.bincount(places[by_evidence], minlength=_BINS)
            joined_2B[1] += np.bincount(places[by_codelength], minlength=_BINS)
            both += float((by_evidence & by_codelength).sum())
            first, second = leaders_V[sources], leaders_V[targets]
            odds = edge_log_odds(lines, first, second, similarities)
            expected += float(np.where(first == second, 1, 1 / (1 + np.exp(-odds, dtype=np.float64))).sum())
        joined_2 = joined_2B.sum(axis=1)
        cannot_tell = expected < both if self.fit is not None else bool(task.facts(self.first)["two_answers"])
        expected = min(max(expected, both), float(joined_2.mean()))
        if not fitted:
            return Said(expected, 1.0, 0.0, True)
        middles_B = (np.arange(_BINS) + 0.5) * (2 * _MOST / _BINS) - _MOST
        slope, _ = calibrate_counts(middles_B, joined_2B.mean(axis=0), counts_B)
        even = -offset_of_sum(slope * middles_B, counts_B, expected) / slope
        cannot_tell = cannot_tell or bool(joined_2.min() < NOTHING_FOUND * joined_2.max())
        enough = cannot_tell or abs(slope * even) < ODDS_IN_DOUBT
        return Said(expected, slope, 0.0 if enough else float(np.clip(even, -_MOST / 2, _MOST / 2)), enough)


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrectedScores(Scores):
    """The same edges, with the odds that opinions say."""

    kind, version, title = "odds.score", 1, "corrected"
    score: Scores
    said: Saying

    def cost(self) -> Cost:
        """Project what the scores take on disk."""
        return replace(self.score.cost(), seconds=self.num_rows * self.knn.k / 1e7, gpu_speed=0.0)

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        said = task.facts(self.said)
        chunks = read_edges(task.input(self.score), start, stop, ("score",))

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            scores = next(chunks)[0]
            if (said.slope, said.even) == (1.0, 0.0):
                return scores
            return (1 / (1 + np.exp(-said.slope * (log_odds(scores) - said.even)))).astype(np.float32)

        return self.write(task, start, stop, give)


def corrected(score: Scores, first: Agreed, copies: Copies, order: Order | None, fit: Fit | None) -> CorrectedScores:
    """The step that corrects the odds of scores, as ``Saying`` has it."""
    said = Saying(score=score, first=first, strangers=first.strangers, copies=copies, order=order, fit=fit)
    return CorrectedScores(
        num_rows=score.num_rows,
        knn=score.knn,
        min_similarity=score.min_similarity,
        max_edges_per_vertex=score.max_edges_per_vertex,
        score=score,
        said=said,
    )
