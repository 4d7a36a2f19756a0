"""CDP's committee: votes, inputs, a mediator that resumes, and whole runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import cluster, evaluate, train
from engine.errors import ConfigError, DataError
from engine.learning.settings import TrainSettings
from engine.methods.cdp.mediator import Member, count_votes, mediate, pair_inputs, train_mediator
from tests.support.toy_graphs import Memory, make_graph
from tests.support.vectors import standin

CONFIG = TrainSettings(max_steps=60, edges_per_step=256, evaluate_every=15, patience=9, learning_rate=1e-2)


def members() -> list[Member]:
    found = []
    for seed in (1, 2):
        neighbors, _ = make_graph(50, 8, seed)
        vectors = np.random.default_rng(seed).normal(size=(50, 16))
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        vertex_of_row = np.random.default_rng(seed).permutation(50).astype(np.int32) if seed == 2 else None
        found.append(Member(neighbors, vertex_of_row, unit))
    return found


def test_votes_and_inputs_are_those_of_a_plain_search() -> None:
    committee, base = members(), Member(make_graph(50, 8, 3)[0])
    rng = np.random.default_rng(4)
    first, second = rng.integers(0, 50, (2, 200)).astype(np.int32)
    cosines = rng.random(200).astype(np.float32)
    inputs = pair_inputs(base, committee, first, second, cosines)
    votes = count_votes(committee, first, second)
    for pair in range(200):
        shares, listed = [], []
        for member in (base, *committee):
            ends = [
                int(row if member.vertex_of_row is None else member.vertex_of_row[row])
                for row in (first[pair], second[pair])
            ]
            lists = [set(member.neighbors_NK[end].tolist()) - {-1} for end in ends]
            listed.append(ends[1] in lists[0] or ends[0] in lists[1])
            shares.append(len(lists[0] & lists[1]) / 8)
        assert votes[pair] == sum(listed[1:])
        assert inputs[pair, :2].tolist() == listed[1:]
        assert inputs[pair, 2] == cosines[pair]
        for place, member in enumerate(committee):
            assert member.features_ND is not None
            exact = member.features_ND[first[pair]].astype(float) @ member.features_ND[second[pair]].astype(float)
            assert inputs[pair, 3 + place] == pytest.approx(exact, abs=2e-3)
        assert inputs[pair, 5:].tolist() == pytest.approx(shares)


def test_a_mediator_learns_and_resumes_to_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(4_000, 5)).astype(np.float32)
    same = inputs[:, 0] + inputs[:, 1] * inputs[:, 2] > 0.5
    held_out = rng.random(4_000) < 0.2
    whole, history = train_mediator(inputs, same, held_out, config=CONFIG, seed=0)
    assert max(entry.held_out_auc or 0 for entry in history) > 0.9
    checkpoint = Memory(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        train_mediator(inputs, same, held_out, config=CONFIG, seed=0, checkpoint=checkpoint)
    checkpoint.left = 99
    resumed, again = train_mediator(inputs, same, held_out, config=CONFIG, seed=0, checkpoint=checkpoint)
    assert again == history
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert np.array_equal(mediate(whole, inputs), np.concatenate([mediate(whole, inputs[:4_096], threads=2)]))


@pytest.mark.slow
def test_a_committee_beats_its_base(tmp_path: Path) -> None:
    """Three noisy views of the same rows: pairs that the others list too are more often right."""
    vectors, labels = standin(60, 5)
    rng = np.random.default_rng(0)
    paths = []
    for number in range(3):
        np.save(tmp_path / f"view{number}.npy", vectors + 0.06 * rng.normal(size=vectors.shape).astype(np.float32))
        paths.append(tmp_path / f"view{number}.npy")
    np.save(tmp_path / "labels.npy", labels)
    committee = {"cdp.committee": [str(path) for path in paths[1:]], "knn.k": 15}
    found = {}
    for name, method, more in (
        ("single", "cdp", {"knn.k": 15}),
        ("vote", "cdp", committee),
        ("mediator", "cdp_mediator", committee | {"train.max_steps": 100}),
    ):
        train(paths[0], tmp_path / "labels.npy", tmp_path / name, method=method, **more)
        more.pop("train.max_steps", None)
        result = cluster(paths[0], model=tmp_path / name, workspace=tmp_path / f"run-{name}", **more)
        found[name] = evaluate(result.labels, labels)["pairwise_f"]
    print(found)
    assert found["vote"] > found["single"] + 0.01
    assert found["mediator"] > found["single"] + 0.01
    with pytest.raises(ConfigError, match=r"trained with 2 committee members, cdp.committee names 0"):
        cluster(paths[0], model=tmp_path / "mediator", workspace=tmp_path / "other", **{"knn.k": 15})
    np.save(tmp_path / "short.npy", vectors[:-1])
    with pytest.raises(DataError, match="3,595 rows, the base has 3,596"):
        cluster(paths[0], method="cdp", **{"cdp.committee": [str(tmp_path / "short.npy")]})
