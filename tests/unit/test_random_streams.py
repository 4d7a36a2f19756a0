"""Every purpose has a stream of its own, but for the numbers that were shared before there was a register."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import random_streams
from engine.random_streams import MINIBATCH, STAND_IN_ROWS, SUBGRAPH, Purpose, stream

# Never add to these: a new purpose takes a number of its own.
SHARED = (
    {"SUBGRAPH", "FIRST_CENTROIDS", "SPEED_PROBES"},
    {"CENTROID_ROWS", "HELD_OUT_IDENTITIES"},
    {"RECALL_ROWS", "IDENTITY_HALVES", "MINIBATCH"},
    {"PASS_ROWS", "STANDARDISED_EDGES", "TREES"},
    {"STOPPING_EDGES", "FITTED_EDGES"},
    {"METRIC_HALVES", "STOPPING_ROWS"},
    {"WHISPERS", "GRADIENT_SHARE", "HELD_OUT_SEEDS", "METRIC_ROWS"},
    {"COMPARED_HALVES", "THINNED_EDGES"},
    {"STAND_IN_MODES", "STAND_IN_SHARED"},
)


def test_only_the_listed_purposes_share_a_number() -> None:
    names = defaultdict(set)
    for name, value in vars(random_streams).items():
        if isinstance(value, Purpose):
            names[value].add(name)
    shared = [each for each in names.values() if len(each) > 1]
    assert sorted(map(sorted, shared)) == sorted(map(sorted, SHARED))


def test_the_engine_draws_from_registered_streams_alone() -> None:
    root = Path(engine.__file__).parent
    for path in root.rglob("*.py"):
        if path.name != "random_streams.py":
            text = path.read_text()
            assert not any(word in text for word in ("default_rng", "SeedSequence", "RandomState")), path


@pytest.mark.parametrize(
    ("drawn", "key"),
    [
        (stream(7, MINIBATCH, 5), [7, 2, 5]),
        (stream(7, MINIBATCH, 0), [7, 2]),
        (stream(2**63 - 1, SUBGRAPH, 4), [2**63 - 1, 4]),
        (stream(7, SUBGRAPH, 0), 7),
    ],
)
def test_the_bits_of_a_stream_never_change(drawn: np.random.Generator, key: int | list[int]) -> None:
    expected = np.random.default_rng(key)
    assert drawn.integers(2**63, size=9).tolist() == expected.integers(2**63, size=9).tolist()


def test_stand_ins_draw_from_a_faster_generator() -> None:
    drawn, expected = stream(3, STAND_IN_ROWS, 8), np.random.Generator(np.random.SFC64([3, 2, 8]))
    assert drawn.integers(2**63, size=9).tolist() == expected.integers(2**63, size=9).tolist()
