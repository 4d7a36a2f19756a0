"""Operating points: planted thresholds are found, on held-out rows alone."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.clustering import biased_modules
from engine.clustering.propagation import propagate
from engine.errors import DataError
from engine.evaluation.metrics import pair_counts
from engine.partitions import PARTITIONS, Edges
from engine.partitions.select import select_operating_points

Array = np.ndarray[Any, Any]


def planted_graph(false_held: float, false_other: float) -> tuple[Array, Array, Array, Array, Array]:
    """40 cliques of 5; true edges score 0.9, one false edge joins each clique to the next. Identities 0..9 held out."""
    identities = np.repeat(np.arange(40), 5)
    edges = [(a, b, 0.9) for c in range(40) for a, b in combinations(range(5 * c, 5 * c + 5), 2)]
    edges += [(5 * c + 4, 5 * c + 5, false_held if c < 10 else false_other) for c in range(39)]
    sources, targets, scores = zip(*edges, strict=True)
    columns = np.array(sources, np.int32), np.array(targets, np.int32), np.array(scores, np.float32)
    return *columns, identities, identities < 10


def select(graph: tuple[Array, Array, Array, Array, Array], **settings: Any) -> dict[str, Any]:
    *columns, identities, held_out = graph
    return select_operating_points(Edges(*columns), identities_N=identities, held_out_N=held_out, **settings)


def test_thresholds_between_true_and_false_edges_are_found() -> None:
    found = select(planted_graph(0.4, 0.4))
    for name in ("components", "propagation", "density_peaks"):
        assert 0.4 < found[name]["min_score"] <= 0.9
        assert found[name]["held_out_f"] == 1.0
        assert found[name]["held_out_precision"] == found[name]["held_out_recall"] == 1.0
    assert found["preferred"] in PARTITIONS


def test_intimacy_and_the_size_cap_tell_false_edges_no_score_tells() -> None:
    graph = planted_graph(0.9, 0.9)
    found = select(graph)
    assert found["components"]["held_out_f"] == 1.0
    assert found["components"]["min_intimacy"] > 0.4  # a false edge's ends share themselves: 2 of 6
    weaker = planted_graph(0.95, 0.95)
    assert select(weaker)["propagation"]["max_size"] >= 5


def test_only_pairs_touching_held_out_rows_count() -> None:
    assert select(planted_graph(0.4, 0.97))["propagation"]["held_out_f"] > 0.99
    assert select(planted_graph(0.97, 0.4))["propagation"]["held_out_f"] < 0.9


def test_a_pair_counts_once_for_each_held_out_row() -> None:
    pairs = np.array(list(combinations(range(10), 2)), np.int32)
    same_score = np.full(len(pairs), 0.9, np.float32)  # so all ten rows, five of them held out, are one cluster or none
    identities = np.repeat([0, 1], 5)
    found = select((*pairs.T, same_score, identities, identities == 0), partitions=("components",))["components"]
    assert found["held_out_recall"] == 1
    assert found["held_out_precision"] == 2 * 10 / (2 * 10 + 25)
    assert found["held_out_bcubed_f"] == pytest.approx(2 / 3)  # each row's cluster is half its own


def test_reported_figures_are_those_of_the_settings() -> None:
    rng = np.random.default_rng(0)
    sources, targets, scores, identities, held_out = planted_graph(0.6, 0.6)
    scores = np.clip(scores + rng.normal(0, 0.15, len(scores)), 0.01, 0.99).astype(np.float32)
    found = select((sources, targets, scores, identities, held_out), threads=2)["propagation"]
    roots = propagate(
        200, sources, targets, scores, min_score=found["min_score"], max_size=found["max_size"], step=0.05
    )
    touching = pair_counts(roots, identities) - pair_counts(roots[~held_out], identities[~held_out])
    counts = touching + pair_counts(roots[held_out], identities[held_out])  # these touch with both rows
    assert found["held_out_precision"] == counts.precision
    assert found["held_out_recall"] == counts.recall


def test_one_large_identity_does_not_choose_for_all() -> None:
    large, small = np.arange(30), np.arange(30, 190).reshape(80, 2)
    edges = [(a, b, 0.9) for half in (large[:15], large[15:]) for a, b in combinations(half.tolist(), 2)]
    edges += [(14, 15, 0.6)] + [(a, b, 0.9) for a, b in small.tolist()]
    edges += [(a, b, 0.7) for (_, a), (b, _) in zip(small[:-1:2].tolist(), small[1::2].tolist(), strict=True)]
    sources, targets, scores = zip(*edges, strict=True)
    columns = np.array(sources, np.int32), np.array(targets, np.int32), np.array(scores, np.float32)
    identities = np.concatenate([np.zeros(30, np.int64), np.repeat(np.arange(1, 81), 2)])
    found = select((*columns, identities, np.ones(190, bool)), partitions=("components",))["components"]
    assert 0.7 < found["min_score"] <= 0.9  # a lower one joins the two halves of the large one, and all pairs of others


def test_nothing_to_choose_on_is_an_error() -> None:
    sources, targets, scores, identities, held_out = planted_graph(0.4, 0.4)
    with pytest.raises(DataError, match="no held-out identity"):
        select((sources, targets, scores, identities, np.zeros_like(held_out)))


def test_the_map_equations_floor_lies_above_the_false_edges_of_most_modules() -> None:
    found = select(planted_graph(0.4, 0.4))["map_equation"]
    assert found["held_out_f"] == 1.0
    assert found["min_score"] < 0.9
    dense = planted_graph(0.85, 0.85)  # one weak bridge per clique of ten strong edges: its modules hold without a cut
    assert select(dense)["map_equation"]["held_out_f"] > select(dense)["components"]["held_out_f"] - 1e-9
    one, other = (select(dense, seed=3, threads=threads) for threads in (1, 2))
    assert one == other


@pytest.mark.parametrize(("num_apart", "preferred"), [(0, True), (1, True), (20, False)])
def test_the_map_equation_has_a_head_start_and_no_more(
    num_apart: int, preferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    *columns, identities, _ = planted_graph(0.4, 0.4)
    roots = (np.arange(200) // 5 * 5).astype(np.int32)
    roots[4 : 5 * num_apart : 5] = np.arange(4, 5 * num_apart, 5)  # a row of each of so many cliques is alone
    found_by_it = SimpleNamespace(roots_N=roots)
    monkeypatch.setattr(biased_modules, "find_modules", lambda *_, **__: found_by_it)
    found = select((*columns, identities, np.ones(200, bool)))
    assert found["components"]["held_out_f"] == 1.0
    assert (found["map_equation"]["held_out_f"] < 1.0) == (num_apart > 0)
    assert (found["preferred"] == "map_equation") == preferred


def test_certain_scores_and_no_scores() -> None:
    sources, targets, scores, identities, held_out = planted_graph(0.6, 0.6)
    certain = np.ones_like(scores)
    found = select((sources, targets, certain, identities, held_out), partitions=("components", "propagation"))
    assert found["components"]["min_score"] <= 1
    with pytest.raises(DataError, match="no edge was scored"):
        select((sources[:0], targets[:0], scores[:0], identities, held_out))
