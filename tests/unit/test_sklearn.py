"""The estimator keeps to scikit-learn's conventions, in its own checks and beside its tools."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import check_estimator

import engine
from engine.sklearn import NOISE, IdentityClusterer, pairwise_f

GIVEN: dict[str, Any] = {"method": "cosine", "min_score": 0.6, "threads": 1, "settings": {"partition.max_size": 50}}


def blobs(num: int = 20, per: int = 8, alone: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    identities = np.r_[np.repeat(np.arange(num), per), num + np.arange(alone)]
    rows = rng.normal(size=(num + alone, 32))[identities] + 0.3 * rng.normal(size=(len(identities), 32))
    return rows, identities


def test_labels_noise_medoids_and_prediction() -> None:
    rows, identities = blobs()
    clusterer = clone(IdentityClusterer(**GIVEN, min_cluster_size=2))
    labels = clusterer.fit_predict(rows)
    assert (labels[-5:] == NOISE).all()
    assert (clusterer.probabilities_[-5:] == 0).all()
    assert (clusterer.probabilities_[:-5] > 0.5).all()
    assert pairwise_f(identities, labels) == 1.0
    assert labels[clusterer.medoids_].tolist() == list(range(20))
    np.testing.assert_array_equal(clusterer.predict(rows), labels)
    again = pickle.loads(pickle.dumps(clusterer))
    np.testing.assert_array_equal(again.predict(rows + 0.01), labels)
    assert clusterer.get_params()["min_cluster_size"] == 2


def test_predictions_of_a_kept_run_are_those_of_its_collection(tmp_path: Path) -> None:
    rows, _ = blobs()
    others = np.random.default_rng(1).normal(size=(3, 32))
    clusterer = IdentityClusterer(**GIVEN, min_cluster_size=2, workspace=tmp_path / "run").fit(rows)
    np.testing.assert_array_equal(clusterer.predict(rows + 0.01), clusterer.labels_)
    again = pickle.loads(pickle.dumps(clusterer))
    assert (again.predict(others) == NOISE).all()  # they belong to no cluster, whichever is nearest
    assert (IdentityClusterer(**GIVEN).fit(rows).predict(others) >= 0).all()
    found = engine.open(clusterer.run_).assign(rows).clusters
    assert pairwise_f(found, clusterer.labels_) == 1.0


@pytest.mark.slow
def test_a_grid_search_finds_the_threshold_in_a_pipeline() -> None:
    rows, identities = blobs(alone=0)
    search = GridSearchCV(
        make_pipeline(Normalizer(), IdentityClusterer(**GIVEN)),
        {"identityclusterer__min_score": [0.6, 0.97]},
        scoring=make_scorer(pairwise_f),
        cv=ShuffleSplit(1, test_size=0.5, random_state=0),
    )
    assert search.fit(rows, identities).best_params_ == {"identityclusterer__min_score": 0.6}


@pytest.mark.slow
def test_checks_of_scikit_learn_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check is excepted; the one of other array libraries runs only where scikit-learn is told to use these."""
    if Path("/dev/shm").is_dir():  # some fifty runs, each with its own folder
        monkeypatch.setenv("TMPDIR", "/dev/shm")
        monkeypatch.setattr("tempfile.tempdir", None)
    settings = {"knn.recall_samples": 0, "partition.curve_rows": 0}
    clusterer = IdentityClusterer(method="cosine", threads=1, settings=settings)
    results = check_estimator(clusterer, on_fail=None, on_skip=None)
    failed = {each["check_name"]: each["exception"] for each in results if each["status"] == "failed"}
    assert not failed
    assert {each["check_name"] for each in results if each["status"] == "skipped"} <= {"check_array_api_input"}
