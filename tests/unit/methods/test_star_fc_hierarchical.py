"""STAR-FC at several scales: all are mixed, every vertex takes its own, training resumes and blocks change nothing."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors

from engine import cluster, train
from engine.commands.configuration import load_settings
from engine.commands.run_folder import operating_point
from engine.errors import ConfigError
from engine.graph.adjacency import aggregate, symmetric_rows
from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.registry import METHODS
from engine.methods.star_fc import training
from engine.methods.star_fc.data_parallel import Helpers, SharedSteps, TrainingHelper
from engine.methods.star_fc.minibatches import GraphData
from engine.methods.star_fc.network import HierarchicalStarFC, build_model, missing_entropy
from engine.methods.star_fc.scoring import embed_block
from engine.methods.star_fc.settings import StarFcSettings
from engine.methods.star_fc_hierarchical.settings import HierarchySettings
from engine.runs.step import in_order
from engine.steps.labels import OutsideFile
from engine.storage.companions import CompanionsHere
from tests.support.toy_graphs import Memory, toy_graph
from tests.support.toy_steps import described_graph
from tests.support.vectors import standin

MODEL = HierarchySettings(hidden=16, code=8, head_hidden=16)
TRAINING: dict[str, Any] = {
    "sampling": SamplingSettings(num_nearest=12, max_vertices=400),
    "model": MODEL,
    "config": TrainSettings(max_steps=12, edges_per_step=128, steps_per_subgraph=3, evaluate_every=3, patience=9),
    "seed": 0,
}


@functools.cache
def scaled_graph() -> GraphData:
    """The toy graph, and its vectors averaged over 3, 5, 8 and 10 of the 12 neighbours."""
    data = toy_graph()

    def averaged(k: int) -> np.ndarray:
        rows = symmetric_rows(data.neighbors_NK[:, :k], data.similarities_NK[:, :k], 0, len(data.features_ND))
        return aggregate(*rows, data.features_ND).astype(np.float16)

    return replace(data, smaller_ND=[averaged(k) for k in (3, 5, 8, 10)])


def make_model() -> HierarchicalStarFC:
    model = build_model(24, MODEL, seed=0).eval()
    assert isinstance(model, HierarchicalStarFC)
    return model


def rows() -> list[torch.Tensor]:
    return scaled_graph().rows(np.arange(480), "cpu")


@torch.no_grad()
def choices(model: HierarchicalStarFC, given: list[torch.Tensor]) -> torch.Tensor:
    tokens = model._tokens(given[0], given[1:], model.mixture.softmax(dim=1))
    return model.preferences(tokens).argmax(dim=1)


@torch.no_grad()
def test_every_scale_reaches_the_codes() -> None:
    model, given = make_model(), rows()
    codes = model.encode(*given)
    for scale in range(1, 6):
        changed = [tensor.flip(0) if at == scale else tensor for at, tensor in enumerate(given)]
        assert not torch.allclose(model.encode(*changed), codes), scale


@torch.no_grad()
def test_learned_shares_say_how_much_of_each_is_mixed() -> None:
    model, given = make_model(), rows()
    model.mixture.copy_(torch.tensor([[50.0, -50.0], [-50.0, 50.0]]))
    codes = model.encode(*given)
    for scale, reaches in ((1, True), (2, False), (3, True), (4, False), (5, True)):
        changed = [tensor.flip(0) if at == scale else tensor for at, tensor in enumerate(given)]
        assert torch.allclose(model.encode(*changed), codes) != reaches, scale


@torch.no_grad()
def test_each_vertex_takes_a_scale_of_its_own() -> None:
    model, given = make_model(), rows()
    chosen = choices(model, given)
    assert len(chosen.unique()) > 1
    some = torch.arange(0, 480, 7)
    assert torch.equal(choices(model, [tensor[some] for tensor in given]), chosen[some])
    tokens = model._tokens(given[0], given[1:], model.mixture.softmax(dim=1))
    expected = model.head.encode(torch.stack([tokens[at, scale] for at, scale in enumerate(chosen)]))
    torch.testing.assert_close(model.encode(*given), expected)


@torch.no_grad()
def test_where_all_scales_are_one_it_is_star_fc() -> None:
    model, (features, *_, aggregated) = make_model(), rows()
    plain = build_model(24, StarFcSettings(hidden=16, code=8, head_hidden=16), seed=1).eval()
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    torch.testing.assert_close(model.encode(features, *[aggregated] * 5), plain.encode(features, aggregated))


def test_uneven_choices_are_what_costs() -> None:
    one, two, even = torch.eye(3)[[0, 0, 0, 0]], torch.eye(3)[[0, 1, 0, 1]], torch.eye(3)
    found = [float(missing_entropy(each)) for each in (one, two, even, torch.full((5, 3), 1 / 3))]
    assert found == pytest.approx([math.log2(3), math.log2(3) - 1, 0, 0], abs=1e-6)
    model = make_model()
    with torch.no_grad():
        model.choice.weight.zero_()  # no scale is preferred: nothing to pay
    _, penalty = model.encode_fitting(rows(), np.random.default_rng(0))
    assert penalty.item() == pytest.approx(0, abs=1e-6)
    _, penalty = make_model().encode_fitting(rows(), np.random.default_rng(0))
    assert 0 < penalty.item() < MODEL.entropy_weight * math.log2(3)


def test_training_draws_hard_choices_whose_gradient_is_soft() -> None:
    model, given = make_model(), rows()
    draws = [model.encode_fitting(given, np.random.default_rng(seed))[0] for seed in (4, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    (draws[0] * torch.arange(8)).sum().backward()
    for name in ("mixture", "scale", "choice.weight", "block.self_attn.in_proj_weight"):
        assert model.get_parameter(name).grad.abs().max() > 0, name  # type: ignore[union-attr]


def test_blocks_and_threads_never_change_a_code() -> None:
    model, data = make_model(), scaled_graph()
    arrays = data.features_ND, *data.smaller_ND, data.aggregated_ND
    codes = embed_block(model, *arrays)
    cut = [embed_block(model, *(array[a:b] for array in arrays), threads=2) for a, b in ((0, 77), (77, 480))]
    assert np.array_equal(np.concatenate(cut), codes)


def run(checkpoint: Memory | None = None, **more: Any) -> training.TrainedModel:
    return training.train(scaled_graph(), checkpoint=checkpoint, **TRAINING, **more)


def test_resumed_training_gives_the_same_weights_and_shares() -> None:
    whole = run().model.state_dict()
    checkpoint = Memory(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint)
    assert checkpoint.data is not None
    held = load_tensors(checkpoint.data)
    assert {"optimizer.exp_avg.mixture", "optimizer.exp_avg.choice.weight"} <= held.keys()
    assert held["model.mixture"].abs().max() > 0
    checkpoint.left = 99
    resumed = run(checkpoint).model.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_two_workers_train_as_one() -> None:
    given = TRAINING | {"device": "cpu", "threads": 1}
    helpers = Helpers(*(
        CompanionsHere([TrainingHelper(scaled_graph(), num_workers=2, **given) for _ in range(count)])
        for count in (1, 2)
    ))  # fmt: skip
    shared = run(share=lambda model: SharedSteps(model, scaled_graph(), TRAINING["config"], 0, "cpu", helpers).loss)
    losses = [[(entry.train_loss, entry.held_out_loss) for entry in each.history] for each in (run(), shared)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)


@pytest.mark.parametrize(("k", "sizes"), [(120, [80, 90, 100, 110]), (80, [53, 60, 67, 73]), (2, [1]), (1, [])])
def test_scales_are_shares_of_the_neighbours_there_are(k: int, sizes: list[int]) -> None:
    settings = load_settings(method="star_fc_hierarchical")
    training = METHODS["star_fc_hierarchical"].train(described_graph(1000, 16, k), settings, OutsideFile("", "digest"))
    stages = in_order(training.fit, training.select)[1:]  # without knn
    names = [stage.name for stage in stages]
    expected = [f"aggregate_{size}" for size in sizes]
    assert names == [*expected, "aggregate", "fit", "embed", "score", "select"]
    embed = next(stage for stage in stages if stage.name == "embed")
    assert [name for name in embed.inputs if "smaller" in name] == [f"smaller_{place:02}" for place in range(4)]


@pytest.mark.parametrize(
    ("name", "value"), [("scales", [0.5, 0.4, 0.6, 0.7]), ("scales", [0, 0.4, 0.6, 0.7]), ("hidden", 30)]
)
def test_settings_that_no_network_can_have_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"setting hierarchy\.{name}"):
        load_settings(overrides={f"hierarchy.{name}": value})


@pytest.mark.slow
def test_the_published_preset_trains_and_runs(tmp_path: Path) -> None:
    vectors, labels = standin(12, 3)
    small = {
        "train.max_steps": 6, "train.evaluate_every": 3, "train.edges_per_step": 256, "hierarchy.hidden": 32,
        "hierarchy.head_hidden": 32,
    }  # fmt: skip
    config = "star_fc_hierarchical/original"
    model = train(vectors, labels, tmp_path / "model", config=config, **small)
    result = cluster(vectors, model=model, config=config, workspace=tmp_path / "run", **{"partition.min_score": 0.3})
    point = {"partition": "components", "min_score": 0.3, "min_intimacy": "adaptive"}
    assert operating_point(result.run) == point
    assert "node intimacy by degree" in result.report.read_text()
    network = json.loads((tmp_path / "model/model.json").read_text())["facts"]["network"]
    assert network["scales"] == pytest.approx([2 / 3, 3 / 4, 5 / 6, 11 / 12])
