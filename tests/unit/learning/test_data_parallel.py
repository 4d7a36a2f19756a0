"""Data-parallel training: the loss curve of one worker, the same bits again, one checkpoint for any number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.star_fc.data_parallel import Helpers, SharedSteps, TrainingHelper
from engine.methods.star_fc.settings import StarFcSettings
from engine.methods.star_fc.training import TrainedModel, train
from engine.storage.companions import CompanionsHere
from tests.support.toy_graphs import Memory, toy_graph

CONFIG = TrainSettings(
    max_steps=25, edges_per_step=101, steps_per_subgraph=4, evaluate_every=5, patience=9, learning_rate=5e-3
)
TRAINING: dict[str, Any] = {
    "sampling": SamplingSettings(num_nearest=12, max_vertices=400), "config": CONFIG, "seed": 0, "device": "cpu",
    "threads": 1,
}  # fmt: skip


def run(workers: int, dropout: float = 0.2, checkpoint: Memory | None = None) -> TrainedModel:
    training = TRAINING | {"model": StarFcSettings(hidden=16, code=8, head_hidden=16, dropout=dropout)}
    data = toy_graph()
    if workers == 1:
        return train(data, checkpoint=checkpoint, **training)
    helpers = Helpers(*(
        CompanionsHere([TrainingHelper(data, num_workers=workers, **training) for _ in range(count)])
        for count in (workers - 1, workers)
    ))  # fmt: skip
    return train(
        data, checkpoint=checkpoint, **training,
        share=lambda model: SharedSteps(model, data, CONFIG, 0, "cpu", helpers).loss,
    )  # fmt: skip


def curve(trained: TrainedModel) -> np.ndarray:
    return np.array([(entry.train_loss, entry.held_out_loss) for entry in trained.history])


def same_weights(one: TrainedModel, other: TrainedModel) -> bool:
    weights = other.model.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in one.model.state_dict().items())


def test_the_loss_curve_of_three_workers_is_one_workers() -> None:
    alone, shared = run(1, dropout=0), run(3, dropout=0)
    assert len(alone.history) == 5
    np.testing.assert_allclose(curve(shared), curve(alone), rtol=1e-3)
    assert not same_weights(shared, alone)  # sums of another order


def test_with_dropout_the_curve_is_the_same_within_noise() -> None:
    alone, shared = run(1), run(2)
    assert curve(alone)[-1, 1] < 0.9 * curve(alone)[0, 1]
    np.testing.assert_allclose(curve(shared), curve(alone), rtol=0.1)


def test_a_checkpoint_goes_on_with_another_number_of_workers() -> None:
    checkpoint = Memory(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(1, checkpoint=checkpoint)
    checkpoint.left = 99
    resumed = run(2, checkpoint=checkpoint)
    assert resumed.history[:2] == run(1).history[:2]
    assert [entry.step for entry in resumed.history] == [5, 10, 15, 20, 25]


def test_resumed_training_gives_the_same_bits_for_as_many_workers() -> None:
    checkpoint = Memory(die_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(2, checkpoint=checkpoint)
    checkpoint.left = 99
    assert same_weights(run(2, checkpoint=checkpoint), run(2))


def test_workers_beyond_the_edges_of_a_step_have_nothing_to_add() -> None:
    helper = TrainingHelper(toy_graph(), model=StarFcSettings(), num_workers=200, **TRAINING)
    shares = helper.draw(6)
    assert [len(batches) for batches in shares] == [1] * 200
    assert sum(len(batches[0].same_E) for batches in shares) == 101
    weights = torch.cat([tensor.flatten() for tensor in helper.network.state_dict().values()]).numpy()
    count, loss, gradient = helper.gradient(weights, shares[199], 24, 199)
    assert (count, loss) == (0, 0.0)
    assert not gradient.any()
