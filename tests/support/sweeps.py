"""A sweep of thresholds over edges that a test holds in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.evaluation.sweep import SweepRow, ThresholdSweep


def sweep_of(num_vertices: int, edges: tuple[Any, Any, Any], thresholds: Any, *truth: np.ndarray) -> list[SweepRow]:
    """Sweep over edges (sources, targets, values); ``truth``: identities, and which rows are held out."""
    sweep = ThresholdSweep(num_vertices, thresholds, *truth)
    sweep.add(*edges)
    return sweep.rows()
