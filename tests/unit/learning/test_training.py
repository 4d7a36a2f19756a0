"""Training: it learns, it resumes to the same bits, it never touches held-out identities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import DataError, ManifestMismatch
from engine.learning.held_out import area_under_curve, hold_out
from engine.learning.loop import CheckpointFile
from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.star_fc import training
from engine.methods.star_fc.settings import StarFcSettings
from engine.methods.star_fc.training import TrainedModel, train
from tests.support.toy_graphs import Memory, toy_graph

SAMPLING = SamplingSettings(num_nearest=12, max_vertices=400)
MODEL = StarFcSettings(hidden=16, code=8, head_hidden=16)
CONFIG = TrainSettings(
    max_steps=12, edges_per_step=128, steps_per_subgraph=3, evaluate_every=3, patience=9, learning_rate=5e-3
)


def run(checkpoint: Memory | None = None, config: TrainSettings = CONFIG, **changes: Any) -> TrainedModel:
    settings: dict[str, Any] = {"sampling": SAMPLING, "model": MODEL, "config": config, "seed": 0} | changes
    return train(toy_graph(), checkpoint=checkpoint, **settings)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}])
def test_resumed_training_gives_the_same_bits(changes: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update=changes)
    whole = run(config=config)
    checkpoint = Memory(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, config)
    checkpoint.left = 99
    seen: list[int] = []
    resumed = run(checkpoint, config, progress=lambda step, steps: seen.append(step))
    assert seen[0] == 7
    assert resumed.history == whole.history
    assert resumed.best_step == whole.best_step
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    again = run(checkpoint, config)  # complete: nothing left to train
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())


def test_it_learns_and_keeps_the_best_evaluation() -> None:
    trained = run(config=CONFIG.model_copy(update={"max_steps": 60, "evaluate_every": 10}))
    losses = [entry.held_out_loss for entry in trained.history]
    assert min(losses) < 0.4
    assert trained.history[-1].held_out_auc > 0.9
    assert trained.best_step == trained.history[losses.index(min(losses))].step


def test_it_stops_when_the_held_out_loss_stops_improving() -> None:
    config = CONFIG.model_copy(update={"max_steps": 300, "evaluate_every": 2, "patience": 2, "learning_rate": 0.3})
    trained = run(config=config)
    assert trained.history[-1].step < 300
    losses = [entry.held_out_loss for entry in trained.history]
    assert len(losses) - 1 - losses.index(min(losses)) == 2


def test_no_held_out_or_unknown_row_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[np.ndarray[Any, Any]] = []
    give = training._Training._logits

    def watch(self: Any, edges: Any, generator: Any = None) -> Any:
        if generator is not None:
            fitted.extend([edges.sources, edges.targets])
        return give(self, edges, generator)

    monkeypatch.setattr(training._Training, "_logits", watch)
    trained = run()
    used = np.unique(np.concatenate(fitted))
    assert len(used) > 100
    assert not trained.held_out_N[used].any()
    assert np.all(toy_graph().identities_N[used] >= 0)


def test_checkpoint_of_other_settings_is_refused() -> None:
    checkpoint = Memory()
    run(checkpoint)
    with pytest.raises(ManifestMismatch, match="other settings"):
        run(checkpoint, seed=1)


def test_hold_out_draws_whole_identities_of_every_size() -> None:
    rng = np.random.default_rng(0)
    identities = rng.permutation(np.repeat(np.arange(100), np.arange(1, 101)))
    identities = np.append(identities, [-1, -1])
    held = hold_out(identities, 0.2, seed=0)
    chosen = np.unique(identities[held])
    assert len(chosen) == 20
    assert all((identities == identity).sum() == (identities[held] == identity).sum() for identity in chosen)
    assert not held[-2:].any()
    assert np.sum(chosen >= 80) == np.sum(chosen < 20) == 4
    assert np.array_equal(held, hold_out(identities, 0.2, seed=0))
    with pytest.raises(DataError, match="at least 4"):
        hold_out(np.array([0, 0, 1, -1]), 0.2, seed=0)


def test_area_under_curve_counts_ties_half() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.9])
    assert area_under_curve(scores, np.array([False, False, True, True])) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, share: float) -> None:
    kept = CheckpointFile(tmp_path / "checkpoint")
    assert kept.read() is None
    kept.write(b"weights" * 9)
    assert kept.read() == b"weights" * 9
    data = bytearray(kept.path.read_bytes())
    data[int(share * len(data))] ^= 2
    kept.path.write_bytes(data)
    assert kept.read() is None
