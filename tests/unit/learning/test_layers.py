"""The network: symmetry of both heads, the split first layer, dropout and seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.errors import DataError
from engine.methods.star_fc.network import NUM_EDGE_INPUTS, ConcatHead, build_model
from engine.methods.star_fc.settings import StarFcSettings

HEADS = ["interaction", "concat"]


def random_batch(dimension: int = 12, rows: int = 40, edges: int = 90) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    features, aggregated = torch.randn(2, rows, dimension, generator=generator)
    ends = torch.randint(0, rows, (2, edges), generator=generator)
    return features, aggregated, ends, torch.randn(edges, NUM_EDGE_INPUTS, generator=generator)


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_exactly_symmetric(head: str) -> None:
    model = build_model(12, StarFcSettings(head=head, hidden=16, code=8, head_hidden=10), seed=0).eval()
    features, aggregated, (first, second), inputs = random_batch()
    codes = model.encode(features, aggregated)
    assert codes.shape == (40, model.code_width)
    forward = model.edge_logits(codes[first], codes[second], inputs)
    backward = model.edge_logits(codes[second], codes[first], inputs)
    assert forward.shape == (90,)
    assert torch.equal(forward, backward)
    assert forward.std() > 0


def test_split_first_layer_equals_the_published_concatenation() -> None:
    torch.manual_seed(0)
    head = ConcatHead(16, 10)
    hidden = torch.randn(30, 16)
    first, second = torch.randint(0, 30, (2, 50))

    def published(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        logits = head.last(head.activation(head.first(torch.cat([left, right], dim=1))))
        return logits[:, 1] - logits[:, 0]

    expected = (published(hidden[first], hidden[second]) + published(hidden[second], hidden[first])) / 2
    codes = head.encode(hidden)
    torch.testing.assert_close(head(codes[first], codes[second], torch.empty(0)), expected)


def test_dropout_follows_the_generator() -> None:
    model = build_model(12, StarFcSettings(hidden=16, code=8, head_hidden=10, dropout=0.5), seed=0)
    features, aggregated, (first, second), inputs = random_batch()
    codes = model.encode(features, aggregated)
    draws = [model.edge_logits(codes[first], codes[second], inputs, np.random.default_rng(seed)) for seed in (4, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (build_model(12, StarFcSettings(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_other_dimension_is_refused() -> None:
    with pytest.raises(DataError, match="dimension 12, got 7"):
        build_model(12, StarFcSettings(), seed=0).encode(torch.zeros(3, 7), torch.zeros(3, 7))
