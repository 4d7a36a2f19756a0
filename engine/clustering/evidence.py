"""Turn scores into odds that both ends are one identity: weights of the map equation, and scores moved by a bias.

The odds of a probability p are p / (1 - p); the odds of a cosine grow as exp(cosine / ``COSINE_BANDWIDTH``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

COSINE_BANDWIDTH = 0.1
COSINE_ROOM = 0.25  # the bandwidth is at most this share of the distance from the cosine to 1: 5.8 doublings reach 1
CERTAIN = 1 - 1e-6  # a higher probability counts as this one


def log_odds(scores: Any) -> Any:
    """Compute the log-odds (float64) of probabilities, an array or a number, clipped to those of ``CERTAIN``."""
    held = np.clip(np.asarray(scores, np.float64), 1 - CERTAIN, CERTAIN)
    return np.log(held / (1 - held))


def biased_score(score: float, bias: float, learned: bool) -> float:
    """Give the score whose odds are those of ``score`` doubled ``bias`` times.

    High cosines lie close together, so a doubling moves a cosine by at most a share of its distance to 1.
    """
    if not learned:
        bandwidth = min(COSINE_BANDWIDTH, COSINE_ROOM * max(1 - score, 0.0))
        return score + bias * float(np.log(2)) * bandwidth
    return float(1 / (1 + np.exp(-(log_odds(score) + bias * np.log(2)))))


def edge_weights(scores_E: Array, kind: str, min_score: float = 0.5, bandwidth: float = 1.0) -> Array:
    """Turn scores into the map equation's weights (float32), as the setting ``partition.weight`` says.

    Log-odds are counted from those of ``min_score`` on, so an edge of that score has weight 0.
    """
    if kind == "log_odds":
        return (log_odds(scores_E) - log_odds(min_score)).astype(np.float32)
    if kind == "exponential":
        return np.exp((scores_E.astype(np.float64) - 1) / bandwidth).astype(np.float32)
    return scores_E


def weigh_edges(
    edges: tuple[Array, ...], kind: str, min_score: float, bandwidth: float = 1.0
) -> tuple[Array, Array, Array]:
    """Turn scored edges into the map equation's: sources, targets, weights of edges of ``min_score`` and weight > 0."""
    sources_E, targets_E, scores_E = edges
    weights_E = edge_weights(scores_E, kind, min_score, bandwidth)
    kept = (scores_E >= np.float32(min_score)) & (weights_E > 0)
    return sources_E[kept], targets_E[kept], weights_E[kept]
