"""Expected errors: the rule on a few edges, and made sets whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from engine import cluster
from engine.commands.report_data import report_data
from engine.commands.run_folder import stage_folder
from engine.evaluation.expected import UNIT, expected_errors
from engine.steps.edges import iterate_edges
from engine.storage.context import stage_facts


def test_without_opinions_doubtful_pairs_count_by_their_scores() -> None:
    scores = np.array([0.97, 0.6, 0.02, 0.03, 0.3, 0.96], np.float32)
    inside = np.array([True, True, True, False, False, False])
    wrong, missed = expected_errors(scores, inside)
    assert wrong / UNIT == pytest.approx(0.4 + 0.98, abs=1e-5)
    assert missed / UNIT == pytest.approx(0.3 + 0.96, abs=1e-5)


def test_opinions_settle_all_but_the_pairs_that_they_dispute() -> None:
    scores = np.array([0.6, 0.6, 0.6, 0.3, 0.3, 0.3], np.float32)
    votes = np.array([2, 1, 0, 0, 1, 2], np.int8)
    wrong, missed = expected_errors(scores, np.array([True] * 3 + [False] * 3), votes)
    assert wrong / UNIT == pytest.approx(0.4 + 1, abs=1e-5)
    assert missed / UNIT == pytest.approx(0.3 + 1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("people", "size", "noise"), [(12, 5, 0.2), (40, 6, 0.5)])
def test_where_nothing_was_learned_wrong_merges_are_as_many_as_expected(people: int, size: int, noise: float) -> None:
    """Clean identities, and some that run into each other: by edges alone 90 pairs are missed, 157 wrong."""
    drawn = np.random.default_rng(0)
    identities = np.repeat(np.arange(people), size)
    vectors = drawn.standard_normal((people, 16))[identities] + noise * drawn.standard_normal((len(identities), 16))
    result = cluster(vectors.astype(np.float32))
    folders = [stage_folder(result.run, stage) for stage in ("fit", "corrected")]
    assert folders[0] is not None
    assert folders[1] is not None
    assert stage_facts(folders[0])[0]["trees"] == 0
    wrong = missed = 0
    for sources, targets in iterate_edges(folders[1], ("source", "target")):
        joined, same = result.labels[sources] == result.labels[targets], identities[sources] == identities[targets]
        wrong, missed = wrong + int((joined & ~same).sum()), missed + int((same & ~joined).sum())
    assert (wrong > 20) == (noise > 0.2)
    expected = report_data(result.run).expected_errors
    assert expected is not None
    assert wrong / 2 - 1 < expected[0] < 2 * wrong + 1
    assert expected[1] < missed + 1  # a pair that both opinions miss is not expected to be missed
