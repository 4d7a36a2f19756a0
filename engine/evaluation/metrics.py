"""Clustering metrics from the contingency table: pairwise, BCubed, NMI, ARI.

The table comes from one sort of N combined keys, without an array of size N x N or a Python object per row. Pair counts
are exact integers. Each score is a fraction in [0, 1] (ARI in [-1, 1]), never NaN. A row of identity -1, unknown, is
left out of every score.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError

Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class PairCounts:
    """Numbers of unordered pairs of rows: of one identity, of one predicted cluster, of both."""

    true_pairs: int
    predicted_pairs: int
    both: int

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(
            self.true_pairs + other.true_pairs, self.predicted_pairs + other.predicted_pairs, self.both + other.both
        )

    def __sub__(self, other: PairCounts) -> PairCounts:
        return PairCounts(
            self.true_pairs - other.true_pairs, self.predicted_pairs - other.predicted_pairs, self.both - other.both
        )

    @property
    def precision(self) -> float:
        """Give the share of predicted pairs that are true; 1 by convention where nothing was predicted."""
        return self.both / self.predicted_pairs if self.predicted_pairs else 1.0

    @property
    def recall(self) -> float:
        """Give the share of true pairs that were predicted; 0 where there are none."""
        return self.both / self.true_pairs if self.true_pairs else 0.0


@dataclass(frozen=True)
class Scores:
    """Agreement of predicted labels with identities, as fractions; the two counts of clusters are over all rows."""

    pairwise_f: float
    pairwise_precision: float
    pairwise_recall: float
    bcubed_f: float
    bcubed_precision: float
    bcubed_recall: float
    nmi: float
    ari: float
    num_clusters: int
    num_singletons: int

    def as_dict(self) -> dict[str, float | int]:
        """Return the fields by name, in their order."""
        return asdict(self)


def evaluate_labels(predicted_N: Labels, identities_N: Labels) -> Scores:
    """Score predicted labels against identities.

    Both: integers >= -1, shape (N,). Each row of predicted label -1, unassigned, counts as a cluster of its own. Rows
    of identity -1 count among the clusters, but are not scored.
    Pairwise precision is 1 if no pair is predicted, recall 0 if no pair is true; F is 0 if both P and R are 0. NMI is
    normalised by the arithmetic mean of the two entropies (1 if both are 0). ARI is the pair-counting form.
    Deterministic. Peak 17 bytes per row, up to 90 if every row is a cell of its own. Raises ``DataError`` if no row has
    a known identity, for unequal lengths, and for labels below -1.
    """
    table = _Contingency.of(predicted_N, identities_N)
    if not table.num_rows:
        raise DataError("metrics: no rows to score; expected at least one row with an identity")
    sizes = table.cluster_sizes
    if table.num_rows < len(predicted_N):
        sizes = np.bincount(dense_labels(np.asarray(predicted_N), "predicted labels")[0])
    pairs = table.pair_counts()
    n = table.num_rows
    squares = table.cells.astype(np.float64) ** 2
    precision = float(np.sum(squares / table.cluster_sizes[table.cell_clusters])) / n
    recall = float(np.sum(squares / table.identity_sizes[table.cell_identities])) / n
    return Scores(
        pairwise_f=f_from_counts(pairs),
        pairwise_precision=pairs.precision,
        pairwise_recall=pairs.recall,
        bcubed_f=harmonic_mean(precision, recall),
        bcubed_precision=precision,
        bcubed_recall=recall,
        nmi=table.nmi(),
        ari=_adjusted_rand(pairs, n),
        num_clusters=len(sizes),
        num_singletons=int(np.count_nonzero(sizes == 1)),
    )


def pair_counts(predicted_N: Labels, identities_N: Labels) -> PairCounts:
    """Count true, predicted and common pairs exactly, so that counts over parts can be subtracted.

    The pairs that touch a set of held-out rows are ``pair_counts(all) - pair_counts(all but held out)``.
    Arguments and errors as in ``evaluate_labels``, except that no rows give zeros.
    """
    return _Contingency.of(predicted_N, identities_N).pair_counts()


def f_from_counts(counts: PairCounts) -> float:
    """Return the pairwise F of the counts, a fraction."""
    return harmonic_mean(counts.precision, counts.recall)


def harmonic_mean(precision: float, recall: float) -> float:
    """Return 2PR / (P + R), 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def dense_labels(labels_N: Labels, name: str = "labels") -> tuple[NDArray[np.int64], int]:
    """Renumber labels to 0..C-1 in their ascending order, then one new label for each -1 in row order; return C too."""
    if labels_N.ndim != 1 or not np.issubdtype(labels_N.dtype, np.integer):
        raise DataError(f"{name}: expected integers of shape (N,), got {labels_N.dtype} of shape {labels_N.shape}")
    if len(labels_N) == 0:
        return np.empty(0, np.int64), 0
    low, high = int(labels_N.min()), int(labels_N.max())
    if low < -1:
        row = int(np.argmax(labels_N < -1))
        raise DataError(f"{name}: row {row} holds {labels_N[row]}; expected -1 (none) or a label from 0 up")
    alone_N = labels_N == -1
    if high < 4 * len(labels_N) + 1024:
        seen = np.zeros(high + 2, np.bool_)  # the last slot takes -1
        seen[labels_N] = True
        seen[-1] = False
        num = int(np.count_nonzero(seen))
        dense_N = (np.cumsum(seen, dtype=np.int64) - 1)[labels_N]
    else:
        values, inverse = np.unique(labels_N, return_inverse=True)
        num, dense_N = len(values) - int(low == -1), inverse.astype(np.int64) - int(low == -1)
    num_alone = int(np.count_nonzero(alone_N))
    dense_N[alone_N] = num + np.arange(num_alone)
    return dense_N, num + num_alone


@dataclass(frozen=True)
class _Contingency:
    """The non-empty cells of the clusters-by-identities table of the rows of known identity, with both margins."""

    num_rows: int
    cells: NDArray[np.int64]
    cell_clusters: NDArray[np.int64]
    cell_identities: NDArray[np.int64]
    cluster_sizes: NDArray[np.int64]
    identity_sizes: NDArray[np.int64]

    @classmethod
    def of(cls, predicted_N: Labels, identities_N: Labels) -> _Contingency:
        predicted_N, identities_N = _checked(predicted_N, identities_N)
        clusters_N, num_clusters = dense_labels(predicted_N, "predicted labels")
        truth_N, num_identities = dense_labels(identities_N, "identities")
        known_N = identities_N != -1
        if not known_N.all():
            truth_N, (clusters_N, num_clusters) = truth_N[known_N], dense_labels(clusters_N[known_N])
            num_identities -= len(known_N) - len(truth_N)  # the last identities are of one unknown row each
        del known_N
        sizes_P = np.bincount(clusters_N, minlength=num_clusters)
        sizes_I = np.bincount(truth_N, minlength=num_identities)
        keys_N = clusters_N  # renumbered in place: both numbers are below N, so the key fits int64
        keys_N *= num_identities
        keys_N += truth_N
        del truth_N
        keys_N.sort()
        starts = np.flatnonzero(np.concatenate((np.ones(min(len(keys_N), 1), np.bool_), keys_N[1:] != keys_N[:-1])))
        cells = np.diff(starts, append=len(keys_N))
        clusters_C, identities_C = np.divmod(keys_N[starts], num_identities)
        return cls(len(keys_N), cells, clusters_C, identities_C, sizes_P, sizes_I)

    def pair_counts(self) -> PairCounts:
        return PairCounts(_pairs(self.identity_sizes), _pairs(self.cluster_sizes), _pairs(self.cells))

    def nmi(self) -> float:
        n = self.num_rows
        if len(self.cluster_sizes) == len(self.identity_sizes) == 1:
            return 1.0
        mean = (_entropy(self.cluster_sizes, n) + _entropy(self.identity_sizes, n)) / 2
        a = self.cluster_sizes[self.cell_clusters].astype(np.float64)
        b = self.identity_sizes[self.cell_identities].astype(np.float64)
        information = float(np.sum(self.cells / n * np.log(self.cells / a * (n / b))))
        return min(max(information / mean, 0.0), 1.0)


def _checked(predicted_N: Labels, identities_N: Labels) -> tuple[Labels, Labels]:
    predicted_N, identities_N = np.asarray(predicted_N), np.asarray(identities_N)
    if predicted_N.shape != identities_N.shape:
        raise DataError(
            f"metrics: predicted labels have shape {predicted_N.shape}, identities {identities_N.shape}; "
            "expected one of each per row, in the same order"
        )
    return predicted_N, identities_N


def _pairs(sizes: NDArray[np.int64]) -> int:
    return int(np.sum(sizes * (sizes - 1) // 2))


def _entropy(sizes: NDArray[np.int64], num_rows: int) -> float:
    share = sizes / num_rows
    return float(-np.sum(share * np.log(share)))


def _adjusted_rand(pairs: PairCounts, num_rows: int) -> float:
    both = pairs.both
    only_predicted, only_true = pairs.predicted_pairs - both, pairs.true_pairs - both
    if only_predicted == only_true == 0:
        return 1.0
    neither = num_rows * (num_rows - 1) // 2 - both - only_predicted - only_true
    # Python integers: the products pass 2**63 from about 10**5 rows.
    numerator = 2 * (both * neither - only_true * only_predicted)
    denominator = (both + only_true) * (only_true + neither) + (both + only_predicted) * (only_predicted + neither)
    return numerator / denominator
