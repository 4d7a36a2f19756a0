"""How alike unrelated vectors are by chance, and whether the rows of a graph are any nearer to each other.

Cosines of unrelated unit vectors are those of directions drawn at random in d dimensions, d = 1 / their variance:
cos √(d − 1) / √(1 − cos²) is distributed as Student's t of d − 1 degrees of freedom. Vectors of a common direction, of
which one identity's look the same, are told from it by no test: they are taken for related.
Shape suffixes: N rows, D dimensions, K neighbours, S rows drawn, P others for each.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.graph.similarity import listed_similarities
from engine.random_streams import UNRELATED_ROWS, stream

CHANCE = 0.001  # unrelated vectors expected nearer to a row than what counts as nearer than chance
FEW = 1 / 3  # of the rows with such a neighbour, up to which most of the rest is taken to be of none
CROWD = 16  # neighbours that are a crowd, where chance has a quarter as many as near
FEW_CROWDED = 3 / 4  # of the rows in one, likewise: large identities may be seen by their density alone
RELATED = 0.1  # median cosine of rows drawn at random, from which they are of a common direction
FEWEST_DIMENSIONS = 12  # in fewer, unrelated rows lie too close to be told from related ones
DRAWN_ROWS, DRAWN_OTHERS = 4_096, 64
SAME = 0.01  # difference of a graph's similarities from the vectors' cosines, at most


def chance_similarity(
    features_ND: NDArray[Any], neighbors_NK: NDArray[Any], similarities_NK: NDArray[Any], *, threads: int = 1
) -> float | None:
    """Cosine from which a neighbour is nearer than chance, where few rows have such a one; ``None`` where more have.

    ``features_ND``: unit rows, float16 or float32, of the graph's vertices. Median and lower spread of the cosines of
    pairs drawn at random stand for unrelated rows, as pairs of one identity lie above. ``None``, too, where rows are
    of a common direction or few dimensions, and where the graph's similarities are no cosines of these vectors.
    """
    num_rows, num_neighbors = neighbors_NK.shape
    if num_rows < 2 or not num_neighbors:
        return None
    random = stream(num_rows, UNRELATED_ROWS)
    drawn_S = np.sort(random.permutation(num_rows)[:DRAWN_ROWS])
    drawn_S = drawn_S[neighbors_NK[drawn_S, 0] >= 0]
    if not len(drawn_S):
        return None
    listed_SK = np.asarray(similarities_NK[drawn_S])
    nearest = listed_similarities(features_ND, drawn_S, neighbors_NK[drawn_S, :1].copy(), threads=threads)
    if np.abs(nearest[:, 0] - listed_SK[:, 0]).max() > SAME:
        return None
    steps_SP = random.integers(1, num_rows, (len(drawn_S), DRAWN_OTHERS))  # to any row but itself
    others_SP = ((drawn_S[:, None] + steps_SP) % num_rows).astype(neighbors_NK.dtype)
    pairs_SP = listed_similarities(features_ND, drawn_S, others_SP, threads=threads)
    median, lower = np.quantile(pairs_SP, (0.5, NormalDist().cdf(-1)))
    dimensions = max(median - lower, features_ND.shape[1] ** -0.5) ** -2
    if median >= RELATED or dimensions < FEWEST_DIMENSIONS:
        return None

    def reach(expected: float) -> float:
        """Cosine above which so many unrelated rows are expected to lie of one."""
        freedom, deviate = dimensions - 1, -NormalDist().inv_cdf(min(expected / (num_rows - 1), 0.5))
        deviate *= (8 * freedom + 3) / (8 * freedom + 1)  # Wallace, Ann. Math. Stat. 1959: of t, inverted
        return float(max(median, 0.0) + np.sqrt(-np.expm1(-(deviate**2) / freedom)))

    least, crowd = reach(CHANCE), min(CROWD, num_neighbors)
    near, crowded = listed_SK[:, 0] > least, listed_SK[:, crowd - 1] > reach(crowd / 4)
    return least if near.mean() < FEW and crowded.mean() < FEW_CROWDED else None
