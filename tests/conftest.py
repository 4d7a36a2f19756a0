"""Fixtures shared by the whole suite: small blob data, and one Ray for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import ROOT
from tests.support import postgres as postgres_server
from tests.support.ray_cluster import RAY_CPUS, running
from tests.support.vectors import make_blobs

# Stages of tests are resolved by module name, in this process and in those it starts.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="run in full the tests that a usual run makes smaller")


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    """Tell whether tests take their full data and training, as ``pytest --whole`` asks."""
    return bool(request.config.getoption("--whole"))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes, run one file's tests in one of them, and all that start Ray in one.

    What takes minutes comes first, so that no process works on when the others are done.
    """
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, item.path.is_relative_to(ROOT / "tests/unit")))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else str(item.path)))


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
    with running(hosts=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_environment() -> Iterator[dict[str, str]]:
    """One PostgreSQL server for the session: the environment that leads clients to it."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: the extra pgvector")
    if postgres_server.find_server() is None:
        pytest.skip("no PostgreSQL server is installed")
    with postgres_server.running() as environment:
        yield environment


@pytest.fixture
def postgres(postgres_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's PostgreSQL server, which clients find by the environment."""
    for name, value in postgres_environment.items():
        monkeypatch.setenv(name, value)
