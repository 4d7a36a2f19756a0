"""Resources from a configuration and from what is given; what they mean on this machine and on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import api
from engine.commands.configuration import load_settings
from engine.commands.execution import make_executor
from engine.commands.resources import CLUSTER_THREADS, Resources, count_workers, load_resources
from engine.errors import ConfigError, MemoryBudgetExceeded
from engine.tiles import usable_cores


@pytest.fixture
def features(tmp_path: Path) -> str:
    np.save(tmp_path / "f.npy", np.eye(40, dtype=np.float32))
    return str(tmp_path / "f.npy")


@pytest.fixture
def on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")


def prepared(features: str, tmp_path: Path, **resources: Any) -> api.Prepared:
    return api.prepare("run", tmp_path / "run", api.Request(features), Resources(executor="ray", **resources))


def test_a_file_holds_both_and_what_is_given_counts_first(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "knn: {k: 7}\nresources: {executor: ray, memory_bytes: 2GiB, threads: 3, custom_resources: {big: 1}}\n"
    )
    assert load_settings(path).knn.k == 7
    found = load_resources(path, threads=5, executor=None)
    assert found == Resources(executor="ray", memory_bytes=2 << 30, threads=5, custom_resources={"big": 1.0})
    assert load_resources("star_fc/original") == load_resources() == Resources()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources: {cores: 3}", r"unknown setting cores; known here: .*threads"),
        ("resources: {workers: -1}", "setting workers: .* got -1"),
        ("resources: {memory_bytes: much}", "memory_bytes much: expected a size"),
        ("resources: [1]", "resources: expected a mapping, got list"),
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_resources(path)


def test_on_this_machine_workers_share_it(features: str, tmp_path: Path) -> None:
    found = prepared(features, tmp_path, memory_bytes=8 << 30)
    assert count_workers(found.resources) == max(1, usable_cores() // 2)
    with pytest.raises(MemoryBudgetExceeded, match=r"for each of 3 workers; raise --memory to at least"):
        prepared(features, tmp_path, workers=3, memory_bytes=1 << 30)


@pytest.mark.usefixtures("on_a_cluster")
def test_on_a_cluster_memory_is_of_each_and_gpus_are_its_own(features: str, tmp_path: Path) -> None:
    found = prepared(features, tmp_path, memory_bytes=1 << 30)
    assert (found.threads, found.device) == (CLUSTER_THREADS, "cpu")
    assert found.plan.memory_bytes <= 1 << 30
    assert prepared(features, tmp_path, gpus=1, memory_bytes=1 << 30).device == "cuda"
    with pytest.raises(MemoryBudgetExceeded, match=r"for each worker; raise --memory to at least \d{3}MB"):
        prepared(features, tmp_path, memory_bytes=1 << 20)
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'asterism-clustering[ray]'")
    assert make_executor(found)._asked == 0  # type: ignore[attr-defined]


def test_numbers_of_settings_are_decimal() -> None:
    assert load_settings(overrides=["knn.k=40"]).knn.k == 40
    assert load_settings(overrides=["train.learning_rate=1e-3"]).train.learning_rate == 1e-3
    assert load_settings(overrides=["knn.k=010"]).knn.k == 10
    for text in ("0x10", "1:30", "ten"):
        with pytest.raises(ConfigError, match=r"setting knn\.k: .*got"):
            load_settings(overrides=[f"knn.k={text}"])


def test_what_is_no_number_or_no_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"setting knn\.k: no setting is true or false"):
        load_settings(overrides=["knn.k=true"])
    with pytest.raises(ConfigError, match="setting knn: expected settings by their names"):
        load_settings(overrides=["knn=5"])
