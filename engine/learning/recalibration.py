"""Correct log-odds by answers of people: a slope and an offset that few answers move little, and many much."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

OWN_WORD = 20.0  # answers that the scorer's own word on its better edges is worth
CHOSEN_WEIGHT = 0.1  # of an answer about a pair that was picked as doubtful, because such pairs are not like others
SLOPES = np.exp(np.linspace(np.log(0.25), np.log(4.0), 33))
OFFSETS = np.linspace(-8.0, 8.0, 129)
SLOPE_SPREAD, OFFSET_SPREAD = 0.5, 3.0  # deviations of the logarithm of the slope, and of the offset, before any answer


def recalibrate(
    log_odds_A: Array, same_A: Array, weights_A: Array, log_odds_B: Array, counts_B: Array
) -> tuple[float, float]:
    """Find the slope and the offset of log-odds (Platt, 1999) that are most likely after A weighted answers.

    ``log_odds_B``, ``counts_B``: the log-odds of the scorer's better edges, in B bins. The scorer's own word on these
    counts as ``OWN_WORD`` answers. The most likely pair of a fixed grid is taken, so the result is the same everywhere.
    """
    shares_B = counts_B / max(float(counts_B.sum()), 1.0) * OWN_WORD
    log_odds = np.concatenate([log_odds_A, log_odds_B])
    same = np.concatenate([same_A.astype(np.float64), 1 / (1 + np.exp(-log_odds_B))])
    weights = np.concatenate([weights_A, shares_B])
    best, slope, offset = -np.inf, 1.0, 0.0
    for tried in SLOPES:
        odds = tried * log_odds[:, None] + OFFSETS
        likely = weights @ (same[:, None] * odds - np.logaddexp(0, odds))
        likely -= (np.log(tried) / SLOPE_SPREAD) ** 2 / 2 + (OFFSETS / OFFSET_SPREAD) ** 2 / 2
        place = int(likely.argmax())
        if likely[place] > best:
            best, slope, offset = float(likely[place]), float(tried), float(OFFSETS[place])
    return slope, offset
