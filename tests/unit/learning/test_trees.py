"""Boosted trees: what they learn, when they stop, and that threads change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import DataError
from engine.methods.structural.settings import TreesSettings
from engine.methods.structural.trees import Trees, fit_trees

SMALL = TreesSettings(num_trees=40, levels=4, rate=0.2, min_weight=5)


def corners(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two inputs that decide only together, one with noise, one constant."""
    rng = np.random.default_rng(seed)
    inputs = rng.random((count, 4)).astype(np.float32)
    inputs[:, 3] = 7
    return inputs, (inputs[:, 0] > 0.5) ^ (inputs[:, 1] > 0.3)


def test_trees_learn_an_interaction_and_give_the_same_bits_for_any_threads() -> None:
    inputs, same = corners(4000, 0)
    held_out = np.arange(4000) % 5 == 0
    found = [fit_trees(inputs, same, np.ones(4000), held_out, SMALL, seed=1, threads=threads) for threads in (1, 2)]
    for part in ("inputs", "thresholds", "values"):
        assert np.array_equal(getattr(found[0], part), getattr(found[1], part))
    other, truth = corners(3000, 9)
    logits = found[0].logits(other)
    assert ((logits > 0) == truth).mean() > 0.97
    assert np.array_equal(found[0].logits(other, threads=2), logits)
    assert np.array_equal(found[0].logits(other[500:900]), logits[500:900])


def test_noise_stops_early_and_probabilities_are_calibrated() -> None:
    inputs, _ = corners(6000, 3)
    same = np.random.default_rng(4).random(6000) < 0.2
    held_out = np.arange(6000) % 2 == 0
    config = SMALL.model_copy(update={"patience": 5})
    found = fit_trees(inputs, same, np.ones(6000), held_out, config, seed=0)
    assert len(found.values) < 20
    shares = 1 / (1 + np.exp(-found.logits(inputs)))
    assert abs(shares.mean() - 0.2) < 0.02


def test_a_row_equal_to_the_threshold_goes_left() -> None:
    trees = Trees(np.zeros((1, 1), np.int16), np.full((1, 1), 0.5, np.float32), np.array([[1, 2]], np.float32), 0.25)
    found = trees.logits(np.array([[0.4], [0.5], [0.6]], np.float32))
    assert found.tolist() == [1.25, 1.25, 2.25]


def test_edges_of_one_kind_are_refused() -> None:
    inputs, _ = corners(50, 0)
    with pytest.raises(DataError, match="found one kind"):
        fit_trees(inputs, np.ones(50, bool), np.ones(50), np.zeros(50, bool), SMALL, seed=0)
