from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from engine import ClusterResult, cluster, evaluate
from engine.api import export, run_labels
from engine.errors import ConfigError, DataError
from engine.methods.self_trained.levels import coarser_clusters, finer_clusters
from tests.support.toy_graphs import unit


def topics(wordings: int = 20, copies: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1,500 x 5 vectors without gaps, the topic of each, and which wording of it: there are two answers."""
    stream, rows = np.random.default_rng(0), []
    for _ in range(15):
        centre = unit(stream.normal(size=(1, 5)))[0]
        plane = np.linalg.qr(stream.normal(size=(5, 2)))[0]
        for _ in range(wordings):
            wording = centre + plane @ stream.normal(size=2) * 0.5 / np.sqrt(2)
            rows += [wording + stream.normal(size=5) * 0.1 / np.sqrt(5) for _ in range(copies)]
    number = np.arange(len(rows))
    return np.array(rows, np.float32), number // (wordings * copies), number // copies


@pytest.fixture(scope="module")
def finer(tmp_path_factory: pytest.TempPathFactory) -> ClusterResult:
    return cluster(topics()[0], workspace=tmp_path_factory.mktemp("finer") / "run")


@pytest.fixture(scope="module")
def coarser(tmp_path_factory: pytest.TempPathFactory) -> ClusterResult:
    stream = np.random.default_rng(1)
    rows = unit(stream.normal(size=(300, 32))) + 1.5 * unit(stream.normal(size=(1, 32)))
    return cluster(rows.astype(np.float32), workspace=tmp_path_factory.mktemp("coarser") / "run")


def test_topics_are_preferred_and_their_wordings_are_the_second_answer(finer: ClusterResult) -> None:
    _, topic, wording = topics()
    first, second = finer.levels
    assert np.array_equal(first, finer.labels)
    assert evaluate(first, topic)["pairwise_f"] > 1.5 * evaluate(second, topic)["pairwise_f"]
    assert evaluate(second, wording)["pairwise_f"] > 1.5 * evaluate(first, wording)["pairwise_f"]
    assert len(set(zip(first, second, strict=True))) == second.max() + 1  # nested
    assert "207 finer clusters" in finer.report.read_text()


def test_rows_that_share_a_direction_are_all_alone_or_all_one(coarser: ClusterResult) -> None:
    first, second = coarser.levels
    assert np.array_equal(first, np.arange(300))
    assert not second.any()
    assert "one cluster of all rows" in coarser.report.read_text()


def test_the_second_answer_is_a_column_or_a_file_of_labels(coarser: ClusterResult, tmp_path: Path) -> None:
    table = parquet.read_table(export(coarser.run, tmp_path / "labels.parquet"))
    assert np.array_equal(table["level_2"].to_numpy(), coarser.levels[1])
    assert np.array_equal(np.load(export(coarser.run, tmp_path / "second.npy", level=2)), coarser.levels[1])
    with pytest.raises(ConfigError, match="tables have both levels"):
        export(coarser.run, tmp_path / "second.csv", level=2)
    with pytest.raises(DataError, match="no level 3: it has 2"):
        run_labels(coarser.run, 3)


def test_no_second_answer_is_offered_where_the_first_is_clear(tmp_path: Path) -> None:
    rows = np.repeat(unit(np.random.default_rng(2).normal(size=(40, 16))), 10, axis=0)
    result = cluster((rows + np.random.default_rng(3).normal(size=rows.shape) * 0.05), workspace=tmp_path / "run")
    assert len(result.levels) == 1
    with pytest.raises(DataError, match="no level 2: one answer was found in its data"):
        run_labels(tmp_path / "run", 2)


def test_clusters_are_parted_or_joined_whole() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    roots = np.array([0, 0, 5, 5, 5, 5, 6])
    assert finer_clusters(labels, roots).tolist() == [0, 0, 2, 3, 3, 5, 6]
    assert coarser_clusters(labels, roots).tolist() == [0, 0, 0, 3, 3, 3, 3]  # of 5 and 6 the lower root
