"""Floors without labels or a model, and data on which learning from oneself could go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine import cluster, evaluate
from engine.commands.run_folder import stage_folder
from engine.storage.context import stage_facts
from tests.support.toy_graphs import unit
from tests.support.vectors import standin

FEW = {"trees.num_trees": 20, "trees.levels": 4, "trees.max_edges": 20_000}


def learned_edges(run: Path) -> int:
    folder = stage_folder(run, "fit")
    assert folder is not None
    return int(stage_facts(folder)[0]["edges"])


def test_what_is_learned_from_the_first_clusters_beats_them(tmp_path: Path) -> None:
    vectors, labels = standin(50, 11)
    first = evaluate(cluster(vectors, method="cosine").labels, labels)
    result = cluster(vectors, workspace=tmp_path / "run", **FEW)  # the default, at this size
    assert learned_edges(result.run) > 5_000
    found = evaluate(result.labels, labels)
    assert found["pairwise_f"] > first["pairwise_f"] + 0.02
    assert found["bcubed_f"] > first["bcubed_f"]
    assert "a scorer was fitted where a second opinion" in result.report.read_text()


def test_labels_are_the_same_for_any_threads_and_blocks(tmp_path: Path) -> None:
    vectors, _ = standin(25, 3)
    found = []
    for threads, rows in ((1, 0), (2, 4096)):
        resources = {"threads": threads, "block_rows": rows}
        run = tmp_path / f"run{threads}"
        found.append(
            cluster(vectors, method="self_trained", workspace=run, resources=resources, **FEW).labels.tobytes()
        )
    assert found[0] == found[1]


def test_noise_of_few_dimensions_does_not_collapse_into_one_cluster() -> None:
    vectors = unit(np.random.default_rng(8).normal(size=(3_000, 8)))
    labels = cluster(vectors, method="self_trained", **FEW).labels
    assert np.bincount(labels).max() < 300


@pytest.mark.parametrize(("method", "dim"), [("self_trained", 64), ("self_trained", 512), ("cosine", 128)])
def test_noise_stays_apart(method: str, dim: int) -> None:
    vectors = unit(np.random.default_rng(dim).normal(size=(1_500, dim)))
    assert cluster(vectors, method=method, **(FEW if method == "self_trained" else {})).labels.max() > 1_475


def test_pairs_are_found_among_noise(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    pairs = np.repeat(unit(random.normal(size=(150, 96))), 2, axis=0)
    pairs = unit(pairs + 0.5 / np.sqrt(96) * random.normal(size=pairs.shape))
    vectors = np.concatenate([pairs, unit(random.normal(size=(1_500, 96)))])
    truth = np.concatenate([np.repeat(np.arange(150), 2), np.arange(150, 1_650)])
    result = cluster(vectors, method="self_trained", workspace=tmp_path / "run", **FEW)
    assert learned_edges(result.run) > 0
    assert evaluate(result.labels, truth)["pairwise_f"] > 0.95


def among_noise(num_identities: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Identities of 30 rows, of a mean cosine of 1 / (1 + spread²), and 1,500 rows of noise, in random order."""
    random = np.random.default_rng(9)
    centres = np.repeat(unit(random.normal(size=(num_identities, 128))), 30, axis=0)
    rows = unit(centres + spread / np.sqrt(128) * random.normal(size=centres.shape))
    labels = np.concatenate([np.repeat(np.arange(num_identities), 30), num_identities + np.arange(1_500)])
    order = random.permutation(len(labels))
    return np.concatenate([rows, unit(random.normal(size=(1_500, 128)))])[order], labels[order]


def test_few_identities_among_noise_are_found_by_evidence_alone(tmp_path: Path) -> None:
    vectors, truth = among_noise(15, 0.9)
    result = cluster(vectors, method="self_trained", workspace=tmp_path / "run", **FEW)
    assert learned_edges(result.run) == 0
    assert evaluate(result.labels, truth)["pairwise_f"] > 0.97


def test_many_identities_among_noise_are_not_doubted_away() -> None:
    vectors, truth = among_noise(40, 0.7)
    labels = cluster(vectors, method="self_trained", **{**FEW, "trees.num_trees": 30, "trees.levels": 4}).labels
    assert evaluate(labels, truth)["pairwise_f"] > 0.9


def test_duplicates_a_giant_and_rows_alone_stay_apart() -> None:
    random = np.random.default_rng(5)
    centre, other = unit(random.normal(size=(2, 48)))
    giant = unit(centre + 0.05 * random.normal(size=(1_500, 48)))
    copies = np.tile(other, (1_000, 1))
    alone = unit(random.normal(size=(700, 48)))
    labels = cluster(unit(np.concatenate([giant, copies, alone])), method="self_trained", **FEW).labels
    truth = np.concatenate([np.zeros(1_500), np.ones(1_000), np.arange(2, 702)]).astype(np.int64)
    assert evaluate(labels, truth)["pairwise_f"] > 0.9


def test_clusters_that_teach_nothing_stand(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    centres = unit(random.normal(size=(20, 32)))
    vectors = unit(np.repeat(centres, 30, axis=0) + 0.02 * random.normal(size=(600, 32)))
    result = cluster(vectors, method="self_trained", workspace=tmp_path / "run", **FEW)
    assert learned_edges(result.run) == 0
    assert evaluate(result.labels, np.repeat(np.arange(20), 30))["pairwise_f"] == 1
    assert "they gave nothing more to learn from" in result.report.read_text()


def test_rows_at_the_edge_of_few_large_identities_are_not_left_out() -> None:
    random = np.random.default_rng(7)
    centres = unit(random.normal(size=(2, 128)))
    truth = np.repeat(np.arange(2), 750)
    vectors = unit(centres[truth] + 0.8 * unit(random.normal(size=(1_500, 128))) * random.uniform(0.8, 1.2, (1_500, 1)))
    assert evaluate(cluster(vectors, method="self_trained", **FEW).labels, truth)["pairwise_f"] == 1


@pytest.mark.parametrize("rows", ["noise", "identities", "pairs"])
def test_a_direction_that_all_rows_share_changes_nothing(rows: str) -> None:
    random = np.random.default_rng(3)
    sizes = {
        "noise": np.ones(1_000, int),
        "identities": np.full(60, 10),
        "pairs": np.r_[np.full(300, 2), np.ones(600, int)],
    }
    truth = np.repeat(np.arange(len(sizes[rows])), sizes[rows])
    vectors = unit(random.normal(size=(len(sizes[rows]), 128)))[truth]
    vectors = unit(vectors + 0.5 / np.sqrt(128) * random.normal(size=vectors.shape))
    vectors = vectors + 3 * unit(random.normal(size=(1, 128)))
    labels = cluster(vectors.astype(np.float32), **FEW).labels
    found = evaluate(labels, truth)
    assert found["bcubed_f"] > 0.98
    assert rows == "noise" or found["pairwise_f"] > 0.98


def test_copies_count_once_and_stay_together() -> None:
    random = np.random.default_rng(4)
    vectors = unit(random.normal(size=(60, 64)))[np.repeat(np.arange(60), 12)]
    vectors = unit(vectors + 0.6 / np.sqrt(64) * random.normal(size=vectors.shape)).astype(np.float32)
    drawn = np.concatenate([np.arange(720), random.integers(0, 720, 720)])
    labels = cluster(vectors[drawn], **FEW).labels
    assert evaluate(labels, drawn // 12)["pairwise_f"] > 0.97
    assert all(len(set(labels[drawn == each])) == 1 for each in range(720))


@pytest.mark.parametrize("mode", ["exact", "partition"])
def test_bursts_do_not_hide_who_is_on_them(tmp_path: Path, mode: str) -> None:
    random = np.random.default_rng(4)
    people = np.repeat(np.arange(25), 20)
    shots = unit(unit(random.normal(size=(25, 256)))[people] + 0.9 / 16 * random.normal(size=(500, 256)))
    shot = np.repeat(np.arange(500), 1 + random.poisson(2, 500))
    frames = unit(shots[shot] + 0.14 / 16 * random.normal(size=(len(shot), 256))).astype(np.float32)
    order = random.permutation(len(shot))
    run = tmp_path / "run"
    result = cluster(frames[order], workspace=run, **FEW | {"knn.mode": mode})
    assert evaluate(result.labels, people[shot][order])["pairwise_f"] > 0.97
    assert all(len(set(result.labels[shot[order] == each])) == 1 for each in range(500))
    if mode == "exact":  # else the level of people shows beside the bursts, and nothing is hidden
        assert "copies or near-copies" in result.report.read_text()
    confidence = np.load(stage_folder(run, "explain") / "confidence.npy")
    assert confidence.min() > 0.5
    curve = json.loads((stage_folder(run, "curve") / "curve.json").read_text())
    assert next(row for row in curve["rows"] if row["threshold"] == 0)["num_clusters"] == result.labels.max() + 1


def test_bursts_of_two_frames_are_no_clusters_where_people_show_too() -> None:
    random = np.random.default_rng(8)
    people = np.repeat(np.arange(60), random.integers(4, 12, 60))
    shots = unit(unit(random.normal(size=(60, 64)))[people] + 0.9 / 8 * random.normal(size=(len(people), 64)))
    frames = unit(np.repeat(shots, 2, axis=0) + 0.05 / 8 * random.normal(size=(2 * len(people), 64)))
    labels = cluster(frames.astype(np.float32), **FEW).labels
    assert evaluate(labels, np.repeat(people, 2))["pairwise_f"] > 0.97


def test_many_copies_of_a_few_rows_do_not_merge_the_others() -> None:
    random = np.random.default_rng(9)
    truth = np.repeat(np.arange(40), 5)
    vectors = unit(unit(random.normal(size=(40, 64)))[truth] + 0.6 / 8 * random.normal(size=(200, 64)))
    drawn = np.concatenate([np.arange(200), np.full(200, 3), np.full(200, 77)])
    labels = cluster(vectors[drawn].astype(np.float32), **FEW).labels
    assert evaluate(labels, truth[drawn])["pairwise_f"] > 0.95


def test_near_copies_of_clean_pairs_stay_in_the_graph(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    truth = np.repeat(np.arange(300), 2)
    vectors = unit(unit(random.normal(size=(300, 128)))[truth] + 0.1 / np.sqrt(128) * random.normal(size=(600, 128)))
    result = cluster(vectors.astype(np.float32), workspace=tmp_path / "run", **FEW)
    assert evaluate(result.labels, truth)["pairwise_f"] > 0.99
    assert stage_facts(stage_folder(tmp_path / "run", "copies"))[0]["copies"] == 0


@pytest.mark.parametrize("people", [30, 50])
def test_near_copies_of_clean_identities_stay_in_the_graph(people: int) -> None:
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(people), 8)
    vectors = random.normal(size=(people, 16))[truth] + 0.2 * random.normal(size=(len(truth), 16))
    labels = cluster(vectors.astype(np.float32)).labels
    assert evaluate(labels, truth)["pairwise_f"] > 0.95  # 0.28 and 0.18 without the near-copies


def test_clusters_without_a_gap_are_modules_of_the_graph(tmp_path: Path) -> None:
    load_digits = pytest.importorskip("sklearn.datasets", reason="digits come with scikit-learn").load_digits
    digits = load_digits()
    result = cluster(unit(digits.data).astype(np.float32), workspace=tmp_path / "run", **FEW)
    assert evaluate(result.labels, digits.target)["pairwise_f"] > 0.8
    assert "modules of the neighbour graph" in result.report.read_text()
