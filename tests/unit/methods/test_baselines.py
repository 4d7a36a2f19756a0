"""Baselines: each finds clear clusters; our own agree with naive references."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from engine import cluster, evaluate, train
from engine.errors import ConfigError, DataError
from engine.methods.baselines.method import Baseline
from engine.methods.baselines.searches import Sample, chinese_whispers, knn_dbscan, rank_order
from engine.methods.baselines.steps import KINDS
from engine.methods.registry import METHODS

SETTINGS = {"num_clusters": 12, "distance": 0.25, "min_rows": 3, "selection": "eom"}


def blobs(per_blob: int = 10, num: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(num, 24))
    labels = rng.permutation(np.repeat(np.arange(num), per_blob))
    vectors = centres[labels] + 0.25 * rng.normal(size=(len(labels), 24))
    return vectors.astype(np.float32), labels


def sample(vectors: np.ndarray, k: int) -> Sample:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    products = unit @ unit.T
    np.fill_diagonal(products, -2)
    neighbors = np.argsort(-products, axis=1, kind="stable")[:, :k].astype(np.int32)
    return Sample(vectors, neighbors, np.take_along_axis(products, neighbors, axis=1).astype(np.float32))


@pytest.mark.parametrize("name", list(KINDS))
def test_clear_clusters_are_found(name: str) -> None:
    vectors, labels = blobs()
    kind = KINDS[name]  # type: ignore[index]
    point = {key: SETTINGS[key] for key in kind.values} | ({"distance": 0.1} if name == "rank_order" else {})
    (found,) = kind.search(sample(vectors, 20), [point])
    assert evaluate(found.astype(np.int64), labels)["pairwise_f"] > (0.8 if name == "rank_order" else 0.9)


def test_knn_dbscan_is_scikit_learns_of_the_listed_pairs() -> None:
    sklearn = pytest.importorskip("sklearn.cluster")
    vectors, _ = blobs(12, 10)
    given = sample(vectors + 0.15 * np.random.default_rng(5).normal(size=vectors.shape).astype(np.float32), 9)
    apart = np.full((len(given), len(given)), 3.0)
    for row, others in enumerate(given.neighbors_NK):
        apart[row, others] = apart[others, row] = 1 - given.similarities_NK[row]
    np.fill_diagonal(apart, 0)
    borders = 0
    for distance, least in product((0.05, 0.1, 0.15, 0.2), (2, 4, 7)):
        model = sklearn.DBSCAN(eps=distance, min_samples=least, metric="precomputed").fit(apart)
        (found,) = knn_dbscan(given, [{"distance": distance, "min_rows": least}])
        dense = np.zeros(len(given), bool)
        dense[model.core_sample_indices_] = True
        assert evaluate(found[dense].astype(np.int64), model.labels_[dense])["pairwise_f"] == 1 or not dense.any()
        near = np.where(dense & (apart <= distance), apart, 3.0)
        for row in np.flatnonzero(~dense):
            if near[row].min() < 3:
                borders += 1
                assert found[row] == found[near[row].argmin()]
            else:
                assert (found == found[row]).sum() == 1
    assert borders > 20


def test_rank_distances_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(3)
    given = sample(rng.normal(size=(40, 6)).astype(np.float32), 8)
    lists = [row.tolist() for row in given.neighbors_NK]

    def distance(i: int, j: int) -> float:
        if j not in lists[i] or i not in lists[j]:
            return np.inf
        ranks = lists[i].index(j), lists[j].index(i)
        ahead = sum(other != j and other not in lists[j] for other in lists[i][: ranks[0] + 1])
        back = sum(other != i and other not in lists[i] for other in lists[j][: ranks[1] + 1])
        return (ahead + back) / (min(ranks) + 1)

    for least in (0.5, 1.0, 2.0):
        (found,) = rank_order(given, [{"distance": least}])
        joined = np.eye(40, dtype=bool)
        for i, j in product(range(40), range(40)):
            joined[i, j] |= i != j and distance(i, j) <= least
        for _ in range(6):
            joined = (joined.astype(int) @ joined.astype(int)) > 0
        assert np.array_equal(found[:, None] == found[None, :], joined)


def test_chinese_whispers_labels_rows_in_their_order_and_repeats_itself() -> None:
    vectors, labels = blobs()
    order = np.random.default_rng(1).permutation(len(labels))
    one, again = (next(chinese_whispers(sample(vectors, 20), [{"distance": 0.3}])) for _ in range(2))
    assert np.array_equal(one, again)
    moved = next(chinese_whispers(sample(vectors[order], 20), [{"distance": 0.3}]))
    assert evaluate(one.astype(np.int64), labels)["pairwise_f"] > 0.9
    assert evaluate(moved.astype(np.int64), labels[order])["pairwise_f"] > 0.9


def test_a_baseline_is_trained_and_run_like_any_method(tmp_path) -> None:  # type: ignore[no-untyped-def]
    vectors, labels = blobs()
    train(vectors, labels, tmp_path / "model", method="average_linkage")
    result = cluster(vectors, model=tmp_path / "model", workspace=tmp_path / "run")
    assert evaluate(result.labels, labels)["pairwise_f"] > 0.9
    page = result.report.read_text()
    assert "average_linkage, which clusters by itself" in page
    assert not any(word in page.split("</style>")[1] for word in ("prun", "threshold", "mean score", "Scores"))
    train(vectors, labels, tmp_path / "means", method="kmeans")
    assert len(np.unique(cluster(vectors, model=tmp_path / "means").labels)) == 12
    with pytest.raises(ConfigError, match=r"needs baseline.num_clusters"):
        cluster(vectors, method="kmeans")
    for method in ("kmeans", "cosine", "cdp"):
        with pytest.raises(ConfigError, match=f"is a average_linkage model, --method {method} was asked for"):
            cluster(vectors, model=tmp_path / "model", method=method, baseline={"num_clusters": 3})
    for setting, value in {"method": "map_equation", "precision_bias": 1}.items():
        with pytest.raises(
            ConfigError, match="run of average_linkage reads no such settings, as it clusters by itself"
        ):
            cluster(vectors, model=tmp_path / "model", partition={setting: value})


@pytest.mark.parametrize("method", ["kmeans", "cdp", "gcn_d"])
def test_labels_without_a_pair_are_refused_before_work_starts(tmp_path, method) -> None:  # type: ignore[no-untyped-def]
    vectors, _ = blobs()
    with pytest.raises(DataError, match="no two of 119 labelled rows are of one identity"):
        train(vectors, np.arange(-1, len(vectors) - 1), tmp_path / "model", method=method)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("method", "baseline", "most"),
    [("kmeans", {"num_clusters": 121}, 120), ("spectral", {"num_clusters": 120}, 119),
     ("hdbscan", {"min_rows": 121, "selection": "eom"}, 120)],
)  # fmt: skip
def test_parameters_beyond_the_rows_are_refused_before_work_starts(method, baseline, most) -> None:  # type: ignore[no-untyped-def]
    vectors, _ = blobs()
    name, value = next(iter(baseline.items()))
    with pytest.raises(ConfigError, match=f"{name} = {value}: method {method} takes at most {most} for 120 rows"):
        cluster(vectors, method=method, baseline=baseline)
    if method != "kmeans":
        cluster(vectors, method=method, baseline=baseline | {name: most})


def test_more_votes_than_members_are_refused() -> None:
    vectors, _ = blobs()
    with pytest.raises(ConfigError, match=r"cdp.accept = 1 asks for more votes than cdp.committee has members, 0"):
        cluster(vectors, method="cdp", cdp={"accept": 1})


def test_a_size_beyond_a_baseline_is_refused_before_it_runs(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    vectors, _ = blobs()
    small = Baseline("ward")
    small.kind = KINDS["single_linkage"].__class__(KINDS["ward"].search, KINDS["ward"].values, 100, pair_bytes=8)
    monkeypatch.setitem(METHODS, "ward", small)
    with pytest.raises(ConfigError, match="takes at most 100 rows, the source has 120"):
        cluster(vectors, method="ward", workspace=tmp_path / "run", baseline={"distance": 0.2})
    assert not (tmp_path / "run").exists()
