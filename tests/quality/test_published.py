"""The published networks: trained on some identities they beat cosine components on others, whatever the threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from engine import cluster, compare, evaluate, train
from engine.api import run_labels
from engine.commands.configuration import load_settings
from engine.errors import ConfigError, DataError, RunBusy
from engine.storage import manifest
from engine.storage.places import open_place
from tests.support.vectors import standin

SHORT: dict[str, Any] = {
    "train.max_steps": 60, "train.evaluate_every": 20, "knn.k": 40, "gcn_v.hidden": 64, "gcn_e.widths": [64, 32],
    "l_gcn.widths": [64, 32], "l_gcn.hidden": 32, "gcn_e.hidden": 32, "gcn_d.widths": [64, 32], "hierarchy.hidden": 32,
}  # fmt: skip
COMPARED = ("train", "knn", "gcn_v")
STEPS: dict[str, dict[str, Any]] = {
    "gcn_d": {"train.max_steps": 200}, "gcn_s": {"train.max_steps": 150},
    "star_fc_hierarchical": {"train.max_steps": 12, "train.edges_per_step": 512},
    "fc_eser": {"trees.num_trees": 20, "trees.levels": 4, "trees.max_edges": 60_000},
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Pairwise F of cosine components, their threshold chosen on the same train identities."""
    (vectors, labels), (others, truth) = standin(35, 10), standin(35, 11)
    model = train(vectors, labels, tmp_path_factory.mktemp("plain") / "model", method="single_linkage", **{"knn.k": 40})
    return evaluate(cluster(others, model=model, **{"knn.k": 40}).labels, truth)["pairwise_f"]


@pytest.mark.parametrize("method", ["gcn_v", "gcn_e", "l_gcn", "gcn_d", "gcn_s", "fc_eser", "star_fc_hierarchical"])
def test_it_is_the_same_for_any_threads_and_blocks_and_beats_cosine(
    method: str, plain: float, tmp_path: Path
) -> None:  # fmt: skip
    (vectors, labels), (others, truth) = standin(35, 10), standin(35, 11)
    settings = SHORT | STEPS.get(method, {})
    config = tmp_path / "short.yaml"  # of all methods: what is set by name must be read
    config.write_text(yaml.safe_dump(load_settings(overrides=settings).model_dump(mode="json", exclude_unset=True)))
    for threads in (1, 2):
        resources = {"threads": threads}
        train(vectors, labels, tmp_path / f"model{threads}", method=method, resources=resources, config=config)
    model = tmp_path / "model1"
    weights = [(tmp_path / f"model{threads}/model.safetensors").read_bytes() for threads in (1, 2)]
    assert weights[0] == weights[1]
    found = []
    for threads, rows in ((1, 0), (2, 4096)):
        resources = {"threads": threads, "block_rows": rows}
        result = cluster(
            others, model=model, workspace=tmp_path / f"run{threads}", resources=resources, **{"knn.k": 40}
        )
        found.append(result.labels)
    assert np.array_equal(*found)
    scores = evaluate(found[0], truth)
    print(method, scores["pairwise_f"], plain, manifest.read_json(model / "model.json")["facts"])
    assert scores["pairwise_f"] > plain


def test_methods_are_compared_on_identities_that_none_was_trained_on(tmp_path: Path) -> None:
    vectors, labels = standin(20, 3)
    labels[:50] = -1
    vectors[7] = 0
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "labels.npy", labels)
    seen: list[str] = []

    def run(**more: Any) -> list[Any]:
        return compare(
            tmp_path / "vectors.npy", tmp_path / "labels.npy", tmp_path / "out",
            ["cosine:map_equation", "gcn_v", "cdp", "kmeans"],
            settings={name: value for name, value in SHORT.items() if name.startswith(COMPARED)} | {
                "train.max_steps": 20,
                "ingest.zero_vectors": "drop", "cdp.committee": [str(tmp_path / "vectors.npy")],
                "baseline.num_clusters": 10**6,
            },
            tell=lambda row: seen.append(row.name), **more,
        )  # fmt: skip

    rows = run()
    assert [row.name for row in rows] == seen
    *rows, failed = rows
    assert not [row.missing for row in rows if row.missing]
    assert all(row.scores["pairwise_f"] > 0.2 and row.run_seconds > 0 and row.peak_bytes > 0 for row in rows)
    assert failed.missing.startswith("baseline.num_clusters = 1000000: method kmeans takes at most")
    rows.append(failed)
    page = (tmp_path / "out/comparison.html").read_text()
    assert all(row.name in page for row in rows)
    for words in ("<dt>Seed</dt><dd>0</dd>", "knn.k = 40", '<a href="runs/gcn_v.html">gcn_v</a>', "numpy "):
        assert words in page
    report = (tmp_path / "out/runs/gcn_v.html").read_text()
    assert "that it gave none are left out" in report
    assert "train.max_steps" not in report  # which a run does not read
    (test,) = (tmp_path / "out").glob("test-*/labels.npy")
    truth, found = np.load(test), np.load(tmp_path / "out/runs/gcn_v.npy")
    assert (truth < 0).sum() == 50  # clustered, but not scored
    assert rows[1].scores["pairwise_f"] == evaluate(found[truth >= 0], truth[truth >= 0])["pairwise_f"]
    with pytest.raises(DataError, match="holds a comparison, not a run"):
        run_labels(tmp_path / "out")
    with pytest.raises(DataError, match="holds a training, no clusters: asterism run --model"):
        run_labels(tmp_path / "out/training")
    halves = [np.load(path) for path in sorted((tmp_path / "out").glob("t*-*/labels.npy"))]
    assert len(halves) == 2
    assert not np.intersect1d(*halves).size
    before = (tmp_path / "out/rows/gcn_v.json").stat().st_mtime_ns
    assert run() == rows
    assert (tmp_path / "out/rows/gcn_v.json").stat().st_mtime_ns == before  # nothing was measured again
    kept = (tmp_path / "out/rows/cdp.json").stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.methods.gcn_v.steps.FitConfidence.version", -1)  # another version of the package
        run()
    assert (tmp_path / "out/rows/gcn_v.json").stat().st_mtime_ns > before
    assert (tmp_path / "out/rows/cdp.json").stat().st_mtime_ns == kept
    (tmp_path / "out/rows/gcn_v.json").unlink()
    with open_place(tmp_path / "out/training").locked(), pytest.raises(RunBusy, match="another process is working on"):
        run()
    assert not (tmp_path / "out/rows/gcn_v.json").exists()  # which says nothing of the method
    with pytest.raises(ConfigError, match="no such method"):
        compare(tmp_path / "vectors.npy", tmp_path / "labels.npy", tmp_path / "out", ["gcn_w"])
    for methods, setting, message in (
        (["kmeans"], "partition.precision_bias", "none of kmeans reads it"),
        (["cosine"], "l_gcn.hidden", "none of cosine reads it"), (["cosine"], "method", "from --methods"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            compare(tmp_path / "vectors.npy", tmp_path / "labels.npy", tmp_path / "out", methods, settings={setting: 1})
