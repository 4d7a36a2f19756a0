"""Choose the pairs of rows that a person should be asked about: those whose answers are worth most.

N vertices, C clusters, Q questions. ``question_evidence`` says what the edges tell: evidence is the probability that
both ends are one identity.

A question is worth the pairs of rows at stake times the probability that the clusters have them wrong. To split asks
about the weakest place of a cluster: the edge of its maximum spanning tree that cuts off most pairs, each counted by
how little the edges across the cut believe in it. To merge asks about a cluster and its nearest other. A sample is a
pair drawn at random from the edges inside clusters: its answers tell how far scores can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.question_evidence import UNITS, CutEvidence, CutTree, DrawnPairs, MergeEvidence, cuts_of

SPLIT, MERGE, SAMPLE = 0, 1, 2
# Where F is 0.6, a wrong pair that is parted adds 0.6 parts to it and a right pair that is joined 1.4.
SPLIT_WORTH, MERGE_WORTH = 0.6, 1.4
FEW_EDGES = 10  # so many edges, or one for each row of the smaller cluster if these are fewer, are expected of a merge
MUST = np.float32(2.0)  # value of a pair that is known to be the same, above all scores


@dataclass(frozen=True)
class QuestionTable:
    """Questions by descending worth; columns of length Q.

    ``kind``: int8, ``SPLIT``, ``MERGE`` or ``SAMPLE``. ``rows`` (Q, 2): the pair to ask about, the lower row first.
    ``said``: what the edges say, from 0 to 1, that it is the same; ``chance``: the same, corrected by answers.
    ``pairs``: pairs of rows at stake. ``worth``: the expected gain; 0 for samples, which come last.
    """

    kind: NDArray[np.int8]
    rows: NDArray[np.int64]
    said: NDArray[np.float64]
    chance: NDArray[np.float64]
    pairs: NDArray[np.int64]
    worth: NDArray[np.float64]


class Questioner:
    """Find questions from what the edges tell; memory follows N.

    ``clusters_N``: 0 to C - 1, or -1. ``nearest_C``: each cluster's nearest other, -1 for none. ``must`` and ``cannot``
    (M, 2): pairs answered before; they are not asked again, and no merge of two clusters is that hold such a pair
    apart. ``moves``: slope and offset, by kind of question, that correct the log-odds of chances. ``tree``: of the
    maximum spanning forest inside clusters, in which pairs of ``must`` have the value ``MUST``.
    """

    def __init__(
        self,
        clusters_N: NDArray[np.int32],
        nearest_C: NDArray[np.int64],
        must: NDArray[Any],
        cannot: NDArray[Any],
        tree: CutTree,
        moves: Mapping[int, tuple[float, float]] | None = None,
    ) -> None:
        self._moves = moves or {}
        self._clusters_N, self._nearest_C, self._tree = clusters_N, nearest_C, tree
        self._sizes_C = np.bincount(clusters_N[clusters_N >= 0], minlength=len(nearest_C))
        self._must, self._cannot = np.asarray(must, np.int64), np.asarray(cannot, np.int64)
        self._sums_N, self._counts_N = np.zeros(len(clusters_N), np.int64), np.zeros(len(clusters_N), np.int64)

    def add_cuts(self, found: CutEvidence) -> None:
        """Add the evidence of a range of edges, each edge once overall; of pairs of ``must``, too."""
        np.add.at(self._sums_N, found.vertices, found.sums)
        np.add.at(self._counts_N, found.vertices, found.counts)

    def questions(self, merges: MergeEvidence, drawn: DrawnPairs, most: int) -> QuestionTable:
        """Return up to ``most`` questions to split and merge, and the samples, by descending worth."""
        parts = [self._splits(), self._merges(merges), self._samples(drawn)]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        table = QuestionTable(*columns)
        order = np.lexsort((table.rows[:, 1], table.rows[:, 0], -table.worth))
        answered = np.concatenate([self._must, self._cannot])
        known = self._key(answered.min(axis=1), answered.max(axis=1))
        order = order[~np.isin(self._key(*table.rows[order].T), known)]
        sample = table.kind[order] == SAMPLE
        places = np.concatenate([order[~sample][:most], order[sample]])
        return QuestionTable(*(column[places] for column in columns))

    def _key(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
        return low * len(self._clusters_N) + high

    def _splits(self) -> tuple[NDArray[Any], ...]:
        """Find the cut of greatest worth of each cluster."""
        vertices, parents, values, chances, pairs = cuts_of(self._tree, self._sums_N, self._counts_N)
        free = values < MUST
        vertices, parents, chances, pairs = vertices[free], parents[free], chances[free], pairs[free]
        corrected = self._correct(SPLIT, chances)
        worth = SPLIT_WORTH * (1 - corrected) * pairs
        order = np.lexsort((vertices, -worth, self._clusters_N[vertices]))
        best = order[np.unique(self._clusters_N[vertices][order], return_index=True)[1]]
        rows = np.sort(np.stack([vertices, parents], axis=1)[best], axis=1)
        kinds = np.full(len(best), SPLIT, np.int8)
        return kinds, rows, chances[best], corrected[best], pairs[best], worth[best]

    def _merges(self, found: MergeEvidence) -> tuple[NDArray[Any], ...]:
        """Ask of each cluster whether it belongs to its nearest other; of a pair of clusters once."""
        own, other = found.clusters.astype(np.int64), self._nearest_C[found.clusters]
        smaller = np.minimum(self._sizes_C[own], self._sizes_C[other])
        chances = found.sums / UNITS / np.maximum(found.counts, np.minimum(smaller, FEW_EDGES))
        corrected = self._correct(MERGE, chances)
        pairs = self._sizes_C[own].astype(np.int64) * self._sizes_C[other]
        keys = np.minimum(own, other).astype(np.int64) * len(self._nearest_C) + np.maximum(own, other)
        first = np.unique(keys, return_index=True)[1]
        apart = self._clusters_N[self._cannot].astype(np.int64)
        apart = apart.min(axis=1) * len(self._nearest_C) + apart.max(axis=1)
        first = first[~np.isin(keys[first], apart)]
        kinds = np.full(len(first), MERGE, np.int8)
        rows = np.sort(np.stack([found.first, found.second], axis=1)[first].astype(np.int64), axis=1)
        return kinds, rows, chances[first], corrected[first], pairs[first], (MERGE_WORTH * corrected * pairs)[first]

    def _correct(self, kind: int, chances: NDArray[np.float64]) -> NDArray[np.float64]:
        slope, offset = self._moves.get(kind, (1.0, 0.0))
        return 1 / (1 + np.exp(-slope * chance_odds(chances) - offset))

    def _samples(self, drawn: DrawnPairs) -> tuple[NDArray[Any], ...]:
        count = len(drawn.hashes)
        pairs = np.sort(np.stack([drawn.first, drawn.second], axis=1).astype(np.int64), axis=1)
        ones, none, chances = np.ones(count, np.int64), np.zeros(count), drawn.evidence.astype(np.float64)
        return np.full(count, SAMPLE, np.int8), pairs, chances, chances, ones, none


def chance_odds(chances: Any) -> Any:
    """Compute the log-odds of chances, an array or a number; none is more certain than one in ten thousand."""
    held = np.clip(np.asarray(chances, np.float64), 1e-4, 1 - 1e-4)
    return np.log(held / (1 - held))
