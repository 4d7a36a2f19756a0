"""How true the probabilities of edges are: a run's ``reliability`` counts in ten bins."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 10
LEAST_SHARE = 0.01  # a bin of fewer edges says little


def calibration(reliability: dict[str, list[float]]) -> dict[str, Any]:
    """Fold ``reliability`` of ``analysis.json`` to ten bins: share of edges, mean probability, share of true edges.

    The mean takes each edge at the middle of its bin in the file, so it is right to 0.01. A bin without edges has
    ``None`` for the latter two.
    """
    bounds, true, false = (np.array(reliability[name]) for name in ("bin_edges", "kept", "pruned"))
    weighted = (true + false) * (bounds[:-1] + bounds[1:]) / 2
    edges, right, sums = (each.reshape(BINS, -1).sum(1) for each in (true + false, true, weighted))
    found = {
        "share": (edges / max(edges.sum(), 1)).round(4).tolist(),
        "mean": _ratios(sums, edges),
        "true": _ratios(right, edges),
    }
    return {**found, "largest_deviation": max(map(abs, deviations(found)), default=0.0)}


def deviations(found: dict[str, Any]) -> list[float]:
    """By bin, how far the share of true edges is above the mean probability; 0 for bins of few edges."""
    return [
        round(true - mean, 3) if share >= LEAST_SHARE else 0.0
        for share, mean, true in zip(found["share"], found["mean"], found["true"], strict=True)
    ]


def _ratios(sums: np.ndarray, edges: np.ndarray) -> list[float | None]:
    return [round(float(each / count), 3) if count else None for each, count in zip(sums, edges, strict=True)]
