"""How many joined pairs of neighbours are expected to be wrong, and how many that were left apart to belong together.

E edges. Expectations are whole numbers of ``UNIT``, so that sums are equal in any order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNIT = 1 << 20  # of one pair
_SURE = 0.1  # a probability, and its distance from 1


def expected_errors(
    scores_E: NDArray[np.float32], inside_E: NDArray[np.bool_], votes_E: NDArray[np.int8] | None = None
) -> tuple[int, int]:
    """Return the expected wrong and missed pairs of a block of edges, in units.

    ``scores_E``: probabilities that both ends are one identity. ``inside_E``: both ends are in one cluster.
    ``votes_E``: how many of two opinions join the ends, where these know more than scores do, because an opinion is a
    clustering and a score the evidence of one edge. Where both say the same, a pair counts as they have it; disputed
    pairs count by their scores.

    Without votes pairs inside of a score above 1 - ``_SURE``, and between of one below ``_SURE``, count as the
    clusters have them, because scores stop short of 0 and 1: the many sure pairs would add up to errors that are not
    there.
    """
    if votes_E is None:
        sure_E = np.where(inside_E, scores_E > 1 - _SURE, scores_E < _SURE)
        chances_E = np.where(sure_E, inside_E, scores_E)
    else:
        chances_E = np.where(votes_E == 1, scores_E, votes_E / 2)
    units_E = np.rint(chances_E * np.float64(UNIT)).astype(np.int64)
    return int((UNIT - units_E[inside_E]).sum()), int(units_E[~inside_E].sum())
