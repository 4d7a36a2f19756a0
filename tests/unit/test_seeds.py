"""The largest seed works wherever a seed reaches: numpy, numba, faiss, scikit-learn and torch take different ranges."""

from __future__ import annotations

import numpy as np
import torch

from engine.clustering.map_equation import map_equation
from engine.commands.configuration import load_settings
from engine.graph.faiss_kmeans import spherical_kmeans
from engine.learning.held_out import hold_out
from engine.methods.baselines.searches import Sample
from engine.sections import MAX_INTEGER


def test_the_largest_seed_works_everywhere() -> None:
    assert load_settings(None, seed=MAX_INTEGER).seed == MAX_INTEGER
    rows = np.random.default_rng([MAX_INTEGER, 3]).standard_normal((64, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert spherical_kmeans(rows, 4, MAX_INTEGER).shape == (4, 4)
    indptr, indices = np.array([0, 1, 2, 3, 4]), np.array([1, 0, 3, 2], np.int32)
    found = map_equation(indptr, indices, np.ones(4, np.float32), seed=MAX_INTEGER)
    assert found.roots_N.tolist() == [0, 0, 2, 2]
    assert Sample(rows, np.zeros((64, 1), np.int32), np.zeros((64, 1), np.float32), MAX_INTEGER).library_seed < 2**32
    assert hold_out(np.arange(64) // 4, 0.2, MAX_INTEGER).any()
    torch.manual_seed(MAX_INTEGER)
