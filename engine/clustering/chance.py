"""How similar unrelated vectors are by chance, and whether the rows of a graph are any nearer to each other.

The cosines of unrelated unit vectors are taken as those of random directions in d dimensions, where d is 1 / their
variance: cos √(d − 1) / √(1 − cos²) then follows Student's t with d − 1 degrees of freedom. No test can tell vectors
that share a common direction from the vectors of one identity, so such vectors are taken for related.
Shape suffixes: N rows, D dimensions, K neighbours, S rows drawn, P others for each.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.clustering.label_free import (
    CHANCE_NEIGHBORS,
    COMMON_DIRECTION,
    COSINE_ERROR,
    CROWD,
    CROWD_RATIO,
    DRAWN_OTHERS,
    DRAWN_ROWS,
    FEW_CROWDED,
    FEW_NEAR,
    FEWEST_DIMENSIONS,
)
from engine.graph.similarity import listed_similarities
from engine.random_streams import UNRELATED_ROWS, stream


def chance_similarity(
    features_ND: NDArray[Any], neighbors_NK: NDArray[Any], similarities_NK: NDArray[Any], *, threads: int = 1
) -> float | None:
    """Find the cosine from which a neighbour is nearer than chance; ``None`` unless few rows have such a neighbour.

    ``features_ND``: unit rows of the graph's vertices, float16 or float32. The median and the lower spread of the
    cosines of random pairs describe unrelated rows, because pairs of one identity lie above the median. Also returns
    ``None`` if rows share a common direction or have few dimensions, or if the graph's similarities are not the cosines
    of these vectors.
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
    if np.abs(nearest[:, 0] - listed_SK[:, 0]).max() > COSINE_ERROR:
        return None
    steps_SP = random.integers(1, num_rows, (len(drawn_S), DRAWN_OTHERS))  # to any row but itself
    others_SP = ((drawn_S[:, None] + steps_SP) % num_rows).astype(neighbors_NK.dtype)
    pairs_SP = listed_similarities(features_ND, drawn_S, others_SP, threads=threads)
    median, lower = np.quantile(pairs_SP, (0.5, NormalDist().cdf(-1)))
    dimensions = max(median - lower, features_ND.shape[1] ** -0.5) ** -2
    if median >= COMMON_DIRECTION or dimensions < FEWEST_DIMENSIONS:
        return None

    def reach(expected: float) -> float:
        """Give the cosine above which so many unrelated rows are expected to lie from one row."""
        freedom, deviate = dimensions - 1, -NormalDist().inv_cdf(min(expected / (num_rows - 1), 0.5))
        deviate *= (8 * freedom + 3) / (
            8 * freedom + 1
        )  # Wallace, Ann. Math. Stat. 1959: his approximation of t, inverted
        return float(max(median, 0.0) + np.sqrt(-np.expm1(-(deviate**2) / freedom)))

    least, crowd = reach(CHANCE_NEIGHBORS), min(CROWD, num_neighbors)
    near, crowded = listed_SK[:, 0] > least, listed_SK[:, crowd - 1] > reach(crowd / CROWD_RATIO)
    return least if near.mean() < FEW_NEAR and crowded.mean() < FEW_CROWDED else None
