"""The public calls on small data: what a user passes, gets back, and is told when it is wrong."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from engine import api, cluster, evaluate, train
from engine.commands import preparation
from engine.commands.choices import STRUCTURAL_ROWS, choose_trained
from engine.commands.configuration import load_settings
from engine.commands.projection import ComputeCluster
from engine.commands.request import Given, Kind, Request
from engine.commands.resolution import resolve
from engine.commands.resources import Resources
from engine.errors import ConfigError, DataError, DiskBudgetExceeded, ManifestMismatch, MemoryBudgetExceeded
from engine.runs.plan import make_plan
from engine.settings import Settings
from engine.steps.source import describe_source

POINT = {"min_score": 0.8, "max_size": 50}


def blobs(num_identities: int = 60, per: int = 12, dim: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    identities = rng.permutation(np.repeat(np.arange(num_identities), per))
    centres = rng.standard_normal((num_identities, dim))
    return (centres[identities] + 0.1 * rng.standard_normal((len(identities), dim))).astype(np.float32), identities


@pytest.mark.parametrize("partition", [POINT, {"method": "components", "min_score": 0.8, "min_intimacy": 0.5}])
@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_clean_identities_are_found(tmp_path: Path, partition: dict[str, Any], mode: str) -> None:
    vectors, identities = blobs()
    result = cluster(vectors, workspace=tmp_path / "run", partition=partition, knn={"mode": mode})
    assert result.labels.dtype == np.int64
    assert evaluate(result.labels, identities)["pairwise_f"] == 1.0
    assert result.labels[0] == 0  # numbered by first row
    assert result.report.is_file()


def test_without_a_workspace_the_result_is_complete(tmp_path: Path) -> None:
    vectors, identities = blobs()
    result = cluster(vectors, partition=POINT)
    assert evaluate(result.labels, identities)["ari"] == 1.0
    assert result.run.is_dir()


@pytest.mark.parametrize(("method", "said"), [(None, "strangers do not explain"), ("cosine", "operating point")])
def test_without_labels_the_report_says_how_clusters_were_found(tmp_path: Path, method: str | None, said: str) -> None:
    vectors, identities = blobs()
    result = cluster(vectors, workspace=tmp_path / "run", method=method)
    assert evaluate(result.labels, identities)["pairwise_f"] > 0.9
    assert said in result.report.read_text()


def test_labels_only_score(tmp_path: Path) -> None:
    vectors, identities = blobs()
    np.save(tmp_path / "truth.npy", identities)
    np.save(tmp_path / "lies.npy", np.random.default_rng(1).permutation(identities))
    plain = cluster(vectors, workspace=tmp_path / "a", partition=POINT).labels
    for name in ("truth", "lies"):
        scored = cluster(vectors, workspace=tmp_path / name, partition=POINT, labels=tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(scored.labels, plain)


@pytest.mark.parametrize(("zero_vectors", "expected"), [("drop", -1), ("singleton", None)])
def test_zero_vectors(tmp_path: Path, zero_vectors: str, expected: int | None) -> None:
    vectors, identities = blobs()
    vectors[[0, 5]] = 0
    result = cluster(vectors, workspace=tmp_path / "run", partition=POINT, ingest={"zero_vectors": zero_vectors})
    if expected is not None:
        assert result.labels[[0, 5]].tolist() == [expected, expected]
        assert set(result.labels[result.labels >= 0]) == set(range(result.labels.max() + 1))
    else:
        assert np.bincount(result.labels)[result.labels[[0, 5]]].tolist() == [1, 1]
    rest = np.setdiff1d(np.arange(len(vectors)), [0, 5])
    assert evaluate(result.labels[rest], identities[rest])["pairwise_f"] == 1.0


def test_one_vector_many_times_is_one_cluster(tmp_path: Path) -> None:
    vectors, _ = blobs()
    vectors = np.concatenate([vectors, np.tile(vectors[:1], (10_000, 1))])
    partition = {"method": "components", "min_score": 0.8, "min_intimacy": 0.0}
    for mode in ("exact", "ivf"):
        labels = cluster(vectors, workspace=tmp_path / mode, partition=partition, knn={"mode": mode}).labels
        assert (labels[-10_000:] == labels[0]).all()
        assert len(set(labels)) == 60


def test_a_given_knn_graph_is_used(tmp_path: Path) -> None:
    vectors, identities = blobs()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit.T), axis=1)[:, :21]
    distances = 1 - np.take_along_axis(unit @ unit.T, order, axis=1)
    np.savez(tmp_path / "faiss_k_20.npz", data=np.stack([order.astype(float), distances], axis=1))
    np.save(tmp_path / "knn.npy", order)
    for name in ("faiss_k_20.npz", "knn.npy"):
        result = cluster(vectors, workspace=tmp_path / name[:3], partition=POINT, knn_graph=tmp_path / name)
        assert evaluate(result.labels, identities)["pairwise_f"] == 1.0


def test_a_knn_graph_of_other_features_is_refused(tmp_path: Path) -> None:
    vectors, _ = blobs()
    rng = np.random.default_rng(3)
    ids = rng.integers(len(vectors), size=(len(vectors), 10)).astype(float)
    np.savez(tmp_path / "other.npz", data=np.stack([ids, np.full_like(ids, 0.1)], axis=1))
    with pytest.raises(DataError, match="belongs to other features"):
        cluster(vectors, workspace=tmp_path / "run", partition=POINT, knn_graph=tmp_path / "other.npz")
    ids[3, 3] = 10_000
    np.savez(tmp_path / "far.npz", data=np.stack([ids, np.full_like(ids, 0.1)], axis=1))
    with pytest.raises(DataError, match=r"10000|other features"):
        cluster(vectors, workspace=tmp_path / "run2", partition=POINT, knn_graph=tmp_path / "far.npz")


def test_k_not_below_n_is_refused_if_asked_for_and_shrinks_if_default(tmp_path: Path) -> None:
    vectors, _ = blobs(4, 5)
    with pytest.raises(ConfigError, match=r"knn\.k = 20 needs more than 20 rows"):
        cluster(vectors, workspace=tmp_path / "a", knn={"k": 20}, partition=POINT)
    assert len(cluster(vectors, workspace=tmp_path / "b", partition=POINT).labels) == 20


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 rows|empty|no rows"):
        cluster(np.ones((0, 4), dtype=np.float32), workspace=tmp_path / "run")


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (np.ones((1, 4)), [0], "All rows have one vector."),
        (np.ones((30, 4)), [0] * 30, "29 rows are copies or near-copies of other rows"),
        (np.eye(3, 4), [0, 1, 2], "3 distinct rows are too few to say how similar strangers are"),
        (np.zeros((5, 4)), [0, 1, 2, 3, 4], "5 rows are zero vectors, which have no direction"),
    ],
)
def test_what_is_said_of_few_or_equal_rows_agrees_with_itself(
    tmp_path: Path, rows: np.ndarray, labels: list[int], said: str
) -> None:
    result = cluster(rows.astype(np.float32), workspace=tmp_path / "run", ingest={"zero_vectors": "singleton"})
    assert result.labels.tolist() == labels
    page = result.report.read_text()
    assert said in page
    for wrong in ("modules of the neighbour graph", "taken away first", "asks for less proof", "Strangers explain"):
        assert wrong not in page


def test_labels_of_another_length_are_refused_before_work_starts(tmp_path: Path) -> None:
    vectors, identities = blobs()
    np.save(tmp_path / "short.npy", identities[:-1])
    with pytest.raises(DataError, match=r"720.*719"):
        cluster(vectors, workspace=tmp_path / "run", labels=tmp_path / "short.npy", partition=POINT)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["knn.kk", "nonsense", "partition.min_scor"])
def test_unknown_settings_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting {name}; known here"):
        cluster(blobs()[0], workspace=tmp_path / "run", **{name: 1})


@pytest.mark.parametrize(
    ("method", "name", "in_training", "in_a_run"),
    [
        ("star_fc", "trees.levels", False, True),
        ("star_fc", "model.hidden", True, False),
        ("star_fc_hierarchical", "model.hidden", False, False),
        ("cdp", "cdp.committee", True, True),
        ("cdp_mediator", "cdp.accept", False, False),
        ("gcn_s", "gcn_d.min_size", True, False),
        ("structural", "train.max_steps", False, False),
        ("structural", "knn.k", True, True),
        ("gcn_v", "partition.curve_rows", False, True),
        ("gcn_s", "partition.curve_rows", False, False),
    ],
)
def test_a_setting_by_name_must_be_read_but_a_file_is_for_several_methods(
    method: str, name: str, in_training: bool, in_a_run: bool, tmp_path: Path
) -> None:
    vectors, identities = blobs(20, 5)
    value: Any = [Given(tmp_path / "member").vectors(vectors)] if name == "cdp.committee" else 2
    given = Given(tmp_path / "run")
    features, labels = given.vectors(vectors), given.labels(identities)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({name.split(".")[0]: {name.split(".")[1]: value}}))

    def asked(kind: Kind, settings: Settings) -> None:
        resolve(kind, Request(features, settings, labels=labels), describe_source(features), untrained=kind == "run")

    works: tuple[tuple[Kind, str, bool], ...] = ("training", "training", in_training), ("run", "a run", in_a_run)
    for kind, work, read in works:
        refused = pytest.raises(ConfigError, match=f"{name}: {work} of {method} reads no such settings.*; leave out")
        with nullcontext() if read else refused:
            asked(kind, load_settings(overrides={name: value}, method=method))
        asked(kind, load_settings(tmp_path / "settings.yaml", method=method))


@pytest.mark.parametrize(
    ("given", "unread", "remedy"),
    [
        ({"partition.max_size": 5}, "partition.max_size", "partition.method=propagation"),
        ({"partition": {"min_intimacy": 0.5}}, "partition.min_intimacy", "partition.method=components"),
        ({"partition.bandwidth": 0.2}, "partition.bandwidth", "partition.weight=exponential"),
        ({"knn.num_cells": 9}, "knn.num_cells", "knn.mode=partition or knn.mode=ivf"),
        ({"knn.mode": "ivf", "knn.max_passes": 2}, "knn.max_passes", "knn.mode=partition"),
        ({"method": "cosine", "trees.levels": 3}, "trees.levels", "method=self_trained"),
        ({"partition.method": "components", "partition.union_find_ranges": 2, "knn.k": 4}, "", ""),
        ({"knn.mode": "partition", "knn.num_cells": 9, "partition.step": 0.1, "metric.learn": "none"}, "", ""),
    ],
)
def test_what_nothing_in_a_run_reads_is_refused_with_what_would_read_it(
    given: dict[str, Any], unread: str, remedy: str, tmp_path: Path
) -> None:
    features = Given(tmp_path / "run").vectors(blobs(5, 5)[0])
    request = Request(features, load_settings(overrides=given))
    said = re.escape(f"reads no such settings; leave out {unread} ({unread} would be read with {remedy})")
    with pytest.raises(ConfigError, match=f"^{unread}: .*{said}$") if unread else nullcontext():
        resolve("run", request, describe_source(features))


def test_an_output_folder_with_another_run_is_refused_unchanged(tmp_path: Path) -> None:
    first = cluster(blobs()[0], workspace=tmp_path / "run", partition=POINT)
    before = sorted((p, p.stat().st_mtime_ns) for p in first.run.rglob("*"))
    with pytest.raises(ManifestMismatch, match="another source"):
        cluster(blobs(seed=9)[0], workspace=tmp_path / "run", partition=POINT)
    assert sorted((p, p.stat().st_mtime_ns) for p in first.run.rglob("*")) == before
    api.resume(first.run, progress=False)  # its own source, saved beside it, is still there
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(ManifestMismatch, match="not empty and holds no run"):
        cluster(blobs()[0], workspace=tmp_path / "full", partition=POINT)


def test_a_run_folder_that_becomes_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, expected the name of a folder"):
        cluster(blobs()[0], workspace=tmp_path / "file", partition=POINT)


def test_memory_that_no_block_fits_is_refused_and_says_what_would(tmp_path: Path) -> None:
    with pytest.raises(MemoryBudgetExceeded, match=r"raise --memory to at least"):
        cluster(blobs()[0], workspace=tmp_path / "run", partition=POINT, resources={"memory_bytes": 1 << 20})
    assert not (tmp_path / "run").exists()


def test_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", blobs()[0])
    request = api.Request(features=str(tmp_path / "x.npy"), settings=load_settings(overrides={"partition": POINT}))
    stages = api.prepare("run", tmp_path / "run", request).plan.stages
    with pytest.raises(DiskBudgetExceeded, match="choose an --out on a larger disk"):
        make_plan("run", stages, source_digest="x", memory_bytes=1 << 34, free_disk_bytes=1000)


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        cluster(blobs()[0], workspace=tmp_path / "run", resources={"device": "cuda"})


def test_resume_needs_the_folder_alone(tmp_path: Path) -> None:
    vectors, _ = blobs()
    first = cluster(vectors, workspace=tmp_path / "run", partition=POINT)
    (next(first.run.glob("labels-*")) / "labels.npy").unlink()
    api.resume(first.run, progress=False)
    np.testing.assert_array_equal(api.run_labels(first.run), first.labels)


def test_exports_keep_source_order_ids_and_items(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors, _ = blobs()
    names = [f"person {i}" for i in range(len(vectors))]
    table = pa.table({"id": pa.array(range(1000, 1000 + len(vectors))), "emb": list(vectors), "who": names})
    pq.write_table(table, tmp_path / "x.parquet")
    request = api.Request(
        features=str(tmp_path / "x.parquet"), items_column="who",
        settings=load_settings(overrides={"partition": POINT, "knn.mode": "ivf"}),
    )  # fmt: skip
    api.execute(api.prepare("run", tmp_path / "run", request), progress=False)
    labels = api.run_labels(tmp_path / "run")
    for kind in ("npy", "txt", "meta", "parquet"):
        api.export(tmp_path / "run", tmp_path / f"labels.{kind}", kind)
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), labels)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "labels.txt", dtype=int), labels)
    exported = pq.read_table(tmp_path / "labels.parquet")
    assert exported.column("id").to_pylist() == list(range(1000, 1000 + len(vectors)))
    assert exported.column("item").to_pylist() == names
    np.testing.assert_array_equal(exported.column("label").to_numpy(), labels)
    assert "person" in (tmp_path / "run/report.html").read_text()
    confidence = exported.column("confidence").to_numpy()
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert confidence.mean() > 0.8
    api.export(tmp_path / "run", tmp_path / "clusters.parquet", "parquet", clusters=True)
    clusters = pq.read_table(tmp_path / "clusters.parquet")
    np.testing.assert_array_equal(clusters.column("labels").to_numpy(), np.unique(labels))
    np.testing.assert_array_equal(clusters.column("sizes").to_numpy(), np.bincount(labels))
    with pytest.raises(ConfigError, match="--format npy: expected one of parquet, csv"):
        api.export(tmp_path / "run", tmp_path / "c.npy", "npy", clusters=True)


def test_evaluate_wants_matching_lengths() -> None:
    with pytest.raises(DataError, match="labels: 2 identities; expected 3, one for each predicted label"):
        evaluate(np.arange(3), np.arange(2))
    assert json.dumps(evaluate(np.arange(3), np.zeros(3, dtype=int)))


@pytest.mark.parametrize("scarce", ["memory", "disk"])
def test_what_does_not_fit_names_the_largest_k_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scarce: str
) -> None:
    np.save(tmp_path / "x.npy", np.ones((20_000, 64), np.float32))

    def prepare(k: int, **limits: int) -> api.Prepared:
        request = api.Request(
            str(tmp_path / "x.npy"), load_settings(overrides={"knn.k": k, "knn.mode": "partition", "method": "cosine"})
        )
        resources = Resources(threads=2, block_rows=4096, memory_bytes=limits.get("memory", 10**10))
        monkeypatch.setattr(preparation, "_free_disk", lambda root: limits.get("disk", 10**12))
        return api.prepare("run", tmp_path / "run", request, resources)

    limits = {scarce: getattr(prepare(300).plan, f"{scarce}_bytes")}
    error = MemoryBudgetExceeded if scarce == "memory" else DiskBudgetExceeded
    with pytest.raises(error, match=r"or lower --set knn\.k=") as refused:
        prepare(400, **limits)
    k = int(re.findall(r"knn\.k=(\d+)", str(refused.value))[0])
    assert 300 <= k < 400
    prepare(k, **limits)
    with pytest.raises(error):
        prepare(k + 1, **limits)


@pytest.mark.slow
def test_what_is_trained_follows_rows_and_settings_unless_it_is_said(tmp_path: Path) -> None:
    vectors, identities = blobs(30)
    np.save(tmp_path / "x.npy", vectors)
    few = describe_source(tmp_path / "x.npy")
    for source, settings, expected in (
        (few, {}, "structural"),
        (few, {"train.max_steps": 5}, "star_fc"),
        (few, {"trees.num_trees": 5}, "structural"),
        (replace(few, num_rows=STRUCTURAL_ROWS + 1), {}, "star_fc"),
        (replace(few, num_rows=STRUCTURAL_ROWS + 1), {"trees.num_trees": 5}, "structural"),
    ):
        assert choose_trained(source, load_settings(overrides=settings)) == expected
    (tmp_path / "asked.yaml").write_text("method: structural\ntrain: {max_steps: 5}\n")
    for model, given, expected in (
        ("auto", {"trees.num_trees": 5}, "structural"),
        ("asked", {"config": tmp_path / "asked.yaml", "trees.num_trees": 5}, "structural"),
    ):
        train(vectors, identities, tmp_path / model, **given)
        assert json.loads((tmp_path / model / "model.json").read_text())["method"] == expected
        assert len(cluster(vectors, model=tmp_path / model).labels) == len(vectors)


def test_a_run_takes_as_many_neighbours_as_its_model_unless_it_is_said(tmp_path: Path) -> None:
    vectors, identities = blobs()
    train(vectors, identities, tmp_path / "model", method="cdp", **{"knn.k": 7})
    np.save(tmp_path / "x.npy", vectors)
    for given, expected in (({}, 7), ({"knn.k": 9}, 9)):
        request = api.Request(
            features=str(tmp_path / "x.npy"), model=str(tmp_path / "model"), settings=load_settings(overrides=given)
        )
        assert api.prepare("run", tmp_path / "run", request).plan.stage("knn").params["k"] == expected


def test_a_plan_without_a_model_has_the_stages_of_one(tmp_path: Path) -> None:
    request = api.Request(features="", settings=load_settings(method="structural"))
    hosts = ComputeCluster(hosts=1, memory_bytes=1 << 36)
    few, many = (
        {stage.name for stage in projection.stages} for projection in api.project(request, hosts, [100_000, 1_000_000])
    )
    assert {"project", "second_listed", "score"} <= few
    assert "project" in many
    assert "second_listed" not in many


def test_a_run_that_joins_nothing_says_so(tmp_path: Path) -> None:
    vectors, _ = blobs()
    result = cluster(vectors, workspace=tmp_path / "run", partition={"min_score": 1.0, "method": "components"})
    assert len(set(result.labels)) == len(vectors)
    assert "No two rows were found to belong together" in result.report.read_text()


def test_lists_are_vectors_and_labels_too(tmp_path: Path) -> None:
    vectors, identities = blobs(10, 6)
    found = cluster(vectors.tolist(), workspace=tmp_path / "run", partition=POINT).labels
    assert evaluate(found, identities)["pairwise_f"] == 1.0


def test_a_precision_bias_is_refused_where_nothing_reads_it(tmp_path: Path) -> None:
    features = Given(tmp_path / "run").vectors(blobs(5, 5)[0])
    for method, refused in (("kmeans", True), ("gcn_d", True), ("cosine", False)):
        given = {"partition.precision_bias": 2.0, **({"baseline.num_clusters": 3} if method == "kmeans" else {})}
        request = Request(features, load_settings(method=method, overrides=given))
        with pytest.raises(ConfigError, match="as it clusters by itself") if refused else nullcontext():
            resolve("run", request, describe_source(features), untrained=True)


def test_a_run_with_other_neighbours_than_its_model_says_so(tmp_path: Path) -> None:
    vectors, identities = blobs()
    train(vectors, identities, tmp_path / "model", method="cdp", **{"knn.k": 7})
    same = cluster(vectors, model=tmp_path / "model", workspace=tmp_path / "same").report.read_text()
    other = cluster(vectors, model=tmp_path / "model", workspace=tmp_path / "other", **{"knn.k": 9}).report.read_text()
    assert "learned from graphs" not in same
    assert "The model learned from graphs of 7 neighbours, this one has 9 (knn.k)." in other


def test_data_kept_in_a_run_is_written_again_if_it_was_damaged(tmp_path: Path) -> None:
    given, vectors = Given(tmp_path / "run"), np.arange(12.0).reshape(4, 3)
    path = Path(given.vectors(vectors))
    whole, changed = path.read_bytes(), path.stat().st_mtime_ns
    assert given.vectors(vectors) == str(path)
    assert path.stat().st_mtime_ns == changed
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    given.vectors(vectors)
    assert path.read_bytes() == whole


def test_data_lies_in_the_run_alone_and_nowhere_if_refused(tmp_path: Path) -> None:
    vectors, identities = blobs(10, 6)
    names = [f"person {identity}" for identity in identities]
    result = cluster(vectors, labels=names, workspace=tmp_path / "run", partition=POINT)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "run"]
    assert "BCubed" in result.report.read_text()
    with pytest.raises(DataError, match="expected 60 labels"):
        cluster(vectors, labels=names[:-1], workspace=tmp_path / "refused", partition=POINT)
    with pytest.raises(DataError, match="expected 60 labels"):
        train(vectors, identities[:-1], tmp_path / "deep" / "model")
    with pytest.raises(ManifestMismatch):
        cluster(vectors[:50], workspace=tmp_path / "run", partition=POINT)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "run"]
    assert len(list((tmp_path / "run" / "given").iterdir())) == 2


def test_bad_rows_are_named_or_set_aside(tmp_path: Path) -> None:
    vectors, identities = blobs(10, 6)
    rows: list[Any] = vectors.tolist()
    rows[3], rows[7][0], rows[9] = None, float("nan"), [0.0] * vectors.shape[1]
    with pytest.raises(DataError, match=r"missing values in rows 3, 7;.*--bad-rows drop"):
        cluster(rows, workspace=tmp_path / "a", partition=POINT)
    result = cluster(
        rows, workspace=tmp_path / "b", partition=POINT, ingest={"bad_rows": "drop", "zero_vectors": "singleton"}
    )
    assert np.flatnonzero(result.labels == -1).tolist() == [3, 7]
    assert (result.labels == result.labels[9]).sum() == 1
    assert "2 rows were left out (label -1)" in result.report.read_text()
    rest = np.setdiff1d(np.arange(len(vectors)), [3, 7, 9])
    assert evaluate(result.labels[rest], identities[rest])["pairwise_f"] == 1.0


def test_lengths_that_vary_are_noted(tmp_path: Path) -> None:
    vectors, _ = blobs(10, 6)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    said = "only directions count"
    assert said not in cluster(vectors, workspace=tmp_path / "a", partition=POINT).report.read_text()
    vectors[::2] *= 3
    assert said in cluster(vectors, workspace=tmp_path / "b", partition=POINT).report.read_text()


def test_what_cannot_be_labels_or_vectors_is_refused(tmp_path: Path) -> None:
    assert evaluate(["a", "a", "b"], [5, 5, 7])["pairwise_f"] == 1.0
    for labels, message in (([1.5, 2, 3], "row 0 is 1.5"), ([[1], [2]], "2 identities; expected 3"), ({1}, "set")):
        with pytest.raises(DataError, match=message):
            evaluate([1, 1, 2], labels)
    with pytest.raises(ConfigError, match="model: expected a path or URL, got dict"):
        cluster(np.eye(4), model={})  # type: ignore[arg-type]
