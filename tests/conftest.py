"""Fixtures shared by the whole suite: small blob data, and one Ray for the session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RAY_CPUS = 4

# Stages of tests are resolved by module name, in this process and in those it starts.
TESTS = str(Path(__file__).parent)
sys.path.insert(0, TESTS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes, run one file's tests in one of them, and all that start Ray in one."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else str(item.path)))


def make_blobs(num_rows: int, dim: int, *, rows_per_blob: int = 12, seed: int = 0) -> np.ndarray:
    """Vectors (N, D) float32 around random unit centres, rows of one blob scattered over the whole array."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((-(-num_rows // rows_per_blob), dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    blob_N = rng.permutation(num_rows) % len(centres)
    noise = rng.standard_normal((num_rows, dim)) * (0.5 / dim**0.5)
    return (centres[blob_N] + noise).astype(np.float32)


@pytest.fixture(scope="session")
def blobs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22,000 x 32 vectors as an .npy file: six chunks of rows, the last one short."""
    path = tmp_path_factory.mktemp("blobs") / "blobs.npy"
    np.save(path, make_blobs(22_000, 32))
    return path


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One embedded Ray for the whole session; executors join it and leave it running."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'asterism[ray]'")
    import ray

    from engine.executors.ray import start_embedded

    start_embedded(RAY_CPUS)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """One Ray cluster of several processes for the session; a test that takes hosts away restores them."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'asterism[ray]'")
    import ray_cluster

    with ray_cluster.running(hosts=3) as cluster:
        yield cluster
