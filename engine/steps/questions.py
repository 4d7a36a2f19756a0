"""Step questions: the pairs that a person should be asked about, and the rows of each cluster, for a review."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.evaluation.questions import MERGE, SAMPLE, SPLIT, Questioner, chance_odds
from engine.learning.recalibration import recalibrate
from engine.runs.step import Facts, Step, Task
from engine.stages import Cost
from engine.steps.copies import Copies
from engine.steps.decisions import ASKED, Answers
from engine.steps.edges import Scores
from engine.steps.explain import Explain, edges_by_row, read_clusters
from engine.steps.knn import Order
from engine.steps.labels import Labels

MOST_QUESTIONS = 4_000
MOST_SAMPLES = 1_000
FEWEST_ANSWERS = 5  # of a kind, below which chances stay as they are
KINDS = {SPLIT: "split", MERGE: "merge", SAMPLE: "sample"}
ROW_COLUMNS = ("row", "other_row")
COLUMNS = ("kind", *ROW_COLUMNS, "said", "chance", "pairs", "worth")


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions(Step[Facts]):
    """The table ``questions`` (``QuestionTable``), and ``members`` (N,) int32: rows by label, then by row.

    ``starts`` (C + 1,) int64: where each label's rows begin among ``members``; rows of label -1 come before the first.
    Chances are corrected by the answers to earlier questions of the same kind. ``learned``: scores are probabilities.
    """

    kind, version, title = "review.questions", 1, "questions"
    labels: Labels
    explain: Explain
    score: Scores
    order: Order | None
    learned: bool
    copies: Copies | None = None
    answers: Answers | None = None

    def cost(self) -> Cost:
        """Project a forest of all rows, and a tree with a few numbers of each."""
        n = self.score.num_rows
        return Cost(fixed_bytes=n * 300 + (16 << 20), disk_bytes=n * 8, seconds=n * self.score.knn.k / 4e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Look twice at the edges."""
        labels_N = np.array(task.npy(self.labels, "labels"))
        must, cannot, moves = self._answered(task)
        nearest_C = read_clusters(task.input(self.explain)).nearest
        confidence_N = np.array(task.npy(self.explain, "confidence"))
        questioner = Questioner(labels_N, confidence_N, nearest_C, must, cannot, moves)
        shared = self.score, self.order, self.copies
        for edges in edges_by_row(task, *shared, learned=self.learned):
            questioner.look(edges)
        for edges in edges_by_row(task, *shared, learned=self.learned):
            questioner.weigh(edges, MOST_SAMPLES)
        found = questioner.questions(MOST_QUESTIONS)
        columns = {name: getattr(found, name) for name in ("kind", "said", "chance", "pairs", "worth")}
        task.write_table("questions", columns | {"row": found.rows[:, 0], "other_row": found.rows[:, 1]})
        task.write_npy("members", np.argsort(labels_N, kind="stable").astype(np.int32))
        counts = np.bincount(labels_N[labels_N >= 0], minlength=len(nearest_C))
        task.write_npy("starts", np.concatenate([[0], np.cumsum(counts)]) + int((labels_N < 0).sum()))
        return {"questions": len(found.kind)}

    def _answered(self, task: Task) -> tuple[np.ndarray, np.ndarray, dict[int, tuple[float, float]]]:
        """Read the answered pairs, and what the answers to questions say about the chances that were told."""
        if self.answers is None:
            none = np.empty((0, 2), np.int64)
            return none, none, {}
        pairs, same, asked, chance = (task.npy(self.answers, name) for name in ("pairs", "same", "asked", "chance"))
        moves = {}
        for kind, name in KINDS.items():
            told = (asked == ASKED.index(name)) & ~np.isnan(chance)
            if kind != SAMPLE and told.sum() >= FEWEST_ANSWERS:
                nothing = np.empty(0)
                odds, ones = chance_odds(chance[told]), np.ones(int(told.sum()))
                moves[kind] = recalibrate(odds, same[told], ones, nothing, nothing)
        return pairs[same], pairs[~same], moves
