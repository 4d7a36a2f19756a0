"""The odds of scores, corrected by what opinions without labels say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import cluster, evaluate, train
from engine.commands.run_folder import stage_folder
from engine.methods.structural.scorer import calibrate_counts, offset_of_sum
from engine.storage.context import stage_facts
from tests.support.toy_graphs import unit

FEW = {"trees.num_trees": 20, "trees.levels": 4, "trees.min_weight": 5, "metric.learn": "none"}


def test_slope_and_offset_are_those_that_the_opinions_were_made_with() -> None:
    log_odds, counts = np.linspace(-8, 8, 400), np.full(400, 1e4)
    joined = counts / (1 + np.exp(-(0.4 * log_odds + 1.5)))
    assert calibrate_counts(log_odds, joined, counts) == pytest.approx((0.4, 1.5), abs=0.03)


def test_a_flat_opinion_gives_the_least_slope_and_no_error() -> None:
    slope, offset = calibrate_counts(np.linspace(-8, 8, 50), np.full(50, 50.0), np.full(50, 100.0))
    assert slope == 0.01
    assert abs(offset) < 0.01


def test_the_offset_makes_as_many_edges_true_as_are_expected() -> None:
    log_odds, counts = np.linspace(-8, 8, 400), np.geomspace(1e5, 1, 400)
    expected = (counts / (1 + np.exp(2.5 - log_odds))).sum()
    assert offset_of_sum(log_odds, counts, expected) == pytest.approx(-2.5, abs=1e-6)


def identities(spread: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Identities of 3 to 12 rows, of a mean cosine of 1 / (1 + spread²)."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), random.integers(3, 13, count))
    centres = unit(random.normal(size=(count, 64)))[labels]
    return unit(centres + spread / 8 * random.normal(size=centres.shape)).astype(np.float32), labels


@pytest.mark.slow
def test_a_model_is_compared_with_opinions_where_it_learned_and_elsewhere(tmp_path: Path) -> None:
    train(*identities(0.9, 150, 1), tmp_path / "model", method="structural", **FEW)
    for spread, seed in ((0.9, 2), (0.5, 3)):
        run = tmp_path / f"run{seed}"
        vectors, labels = identities(spread, 200, seed)
        result = cluster(vectors, model=tmp_path / "model", workspace=run)
        assert evaluate(result.labels, labels)["pairwise_f"] > 0.95
        assert "wo estimates that need no labels" in result.report.read_text()
        said = stage_facts(stage_folder(run, "said"))[0]
        assert said["slope"] == 1
        assert said["expected"] > 0
