"""Labels that are too few to learn from are refused before a graph is built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import api, train
from engine.commands.configuration import load_settings
from engine.errors import DataError
from engine.learning.trainable import refuse_untrainable


@pytest.mark.parametrize("method", ["star_fc", "structural", "gcn_v", "l_gcn", "cdp", "fc_es", "fc_eser", "gcn_d"])
@pytest.mark.parametrize("sizes", [(10,), (5, 5), (3, 3, 4)])
def test_training_needs_four_identities(tmp_path: Path, method: str, sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    vectors = np.random.default_rng(0).standard_normal((len(labels), 4)).astype(np.float32)
    with pytest.raises(DataError, match=rf"labels-\w+\.npy: labels of {len(sizes)} identit.* needs at least 4"):
        train(vectors, labels, tmp_path / "model", method=method)
    assert not (tmp_path / "model").exists()


def test_parts_that_training_draws_are_looked_at() -> None:
    pairs = np.repeat(np.arange(8), 2)
    refuse_untrainable("y.txt", pairs, 0.2, 0, in_halves=False)
    with pytest.raises(DataError, match=r"y\.txt: of 4 identities, . (is|are) in half"):
        refuse_untrainable("y.txt", np.repeat(np.arange(4), 5), 0.2, 0, in_halves=True)
    alone = np.concatenate([[0, 0, 0], np.arange(1, 30), [-1, -1]])
    with pytest.raises(DataError, match="held out, and the largest has 1 row"):
        refuse_untrainable("y.txt", alone, 0.2, 0, in_halves=False)


def test_baselines_choose_by_a_single_identity(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", vectors)
    np.save(tmp_path / "y.npy", np.zeros(10, np.int64))
    request = api.Request(
        features=str(tmp_path / "x.npy"),
        labels=str(tmp_path / "y.npy"),
        settings=load_settings(None, method="kmeans"),
        out=str(tmp_path / "model"),
    )
    assert api.prepare("training", tmp_path / "training", request).plan.stages
