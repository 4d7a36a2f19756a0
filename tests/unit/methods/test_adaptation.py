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
def test_a_model_stands_where_it_learned_and_is_left_elsewhere(tmp_path: Path) -> None:
    train(*identities(0.9, 150, 1), tmp_path / "model", method="structural", **FEW)
    for spread, stands in ((0.9, True), (0.4, False)):
        run = tmp_path / f"run{spread}"
        vectors, labels = identities(spread, 200, 3)
        result = cluster(vectors, model=tmp_path / "model", workspace=run)
        without = cluster(vectors, workspace=tmp_path / f"without{spread}")
        assert evaluate(result.labels, labels)["pairwise_f"] >= evaluate(without.labels, labels)["pairwise_f"]
        assert stage_facts(stage_folder(run, "said"))[0]["enough"] == stands
        assert np.array_equal(result.labels, without.labels) or stands
        assert ("as if no model had been given" in result.report.read_text()) != stands
        assert stage_folder(run, "roots").name.startswith("roots" if stands else "without_model_roots")
