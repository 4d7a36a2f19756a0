"""A cluster is joined with a private token alone; what is started here has one of its own, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from engine.errors import ConfigError, TaskFailed
from engine.executors.protocol import ray_address

pytest.importorskip("ray", reason="Ray is not installed: pip install 'asterism-clustering[ray]'")

from engine.executors.ray import session
from engine.executors.ray.authentication import check_token, require_token


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_cluster_without_authentication_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="that is a dashboard"):
        check_token("http://127.0.0.1:8265")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=10\.0\.0\.1:6379: RAY_AUTH_MODE is not set, so anyone"):
        check_token("10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE is disabled"):
        check_token("127.0.0.1:6379")


def test_a_token_comes_from_the_environment_or_a_private_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ConfigError, match=r"there is no token: RAY_AUTH_TOKEN is not set and .*auth_token does not"):
        check_token("auto")
    default, other = tmp_path / ".ray" / "auth_token", tmp_path / "token"
    default.parent.mkdir()
    for path in (default, other):
        path.write_text("secret")
        path.chmod(0o640)
        with pytest.raises(ConfigError, match=rf"{path} holds Ray's token and others may read it \(mode 0640\): chmod"):
            check_token("auto")
        path.chmod(0o600)
        check_token("auto")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    other.unlink()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    check_token("auto")


def test_a_token_is_made_only_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_token()
    made = os.environ["RAY_AUTH_TOKEN"]
    assert len(made) == 64
    require_token()
    assert os.environ["RAY_AUTH_TOKEN"] == made
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    require_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
    (tmp_path / "token").chmod(0o644)  # then it is none
    require_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_local_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_address() == ""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_address() == ""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert ray_address() == "auto"


def test_nothing_at_the_address_is_told_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "REACH_TIMEOUT_S", 0.0)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret", "RAY_ADDRESS": "127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TaskFailed, match=r"at RAY_ADDRESS=127\.0\.0\.1:9, or has another token: .*refused"):
        session.connect(1, 0)


@pytest.mark.ray
def test_what_is_started_here_listens_on_loopback_alone(ray_session: None) -> None:
    ports = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Ray's short-lived ones end while the others are asked
            ports += [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(ports) > 3
    assert {connection.laddr.ip for connection in ports} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


DRIVER = """
import os, sys
import ray
from engine.executors.ray import start_embedded
start_embedded(1)
print(ray._private.worker._global_node.gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
where = lambda: (os.getpid(), sys.path)
print(ray.get(ray.remote(where).remote())[1], flush=True)
sys.stdin.read()
"""
OTHER = """
import sys
from ray._raylet import GcsClient
print("joined", len(GcsClient(sys.argv[1]).get_all_node_info()))
"""


@pytest.mark.ray
def test_an_embedded_ray_takes_no_tasks_of_others_whatever_the_environment_says(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("raise SystemExit('of the current folder')")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    of_engine = str(Path(session.__file__).parents[3])
    clean["PYTHONPATH"] = os.pathsep.join([of_engine, clean.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-P", "-c", DRIVER]
    with subprocess.Popen(
        command, env={**clean, "RAY_AUTH_MODE": "disabled"}, cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        address, token = driver.stdout.readline().split()
        path = driver.stdout.readline()
        assert str(tmp_path) not in path
        joined = {}
        for word, given in {"none": {"RAY_AUTH_MODE": "disabled"}, "right": {"RAY_AUTH_MODE": "token"}}.items():
            environment = {**clean, **given, **({"RAY_AUTH_TOKEN": token} if word == "right" else {})}
            other = subprocess.run(
                [sys.executable, "-c", OTHER, address], env=environment, capture_output=True, text=True, timeout=120
            )
            joined[word] = other.stdout.strip()
            assert word == "right" or "AuthenticationError" in other.stderr
        driver.communicate("")
    assert joined == {"none": "", "right": "joined 1"}
