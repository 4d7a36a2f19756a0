"""A cluster is joined with a private token alone; what is started here has one of its own, on loopback."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from engine.errors import ConfigError, TaskFailed
from engine.executors.base import cluster_address

pytest.importorskip("ray", reason="Ray is not installed: pip install 'asterism[ray]'")

from engine.executors.ray import session
from engine.executors.ray.authentication import check_token, make_token


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
    make_token()
    made = os.environ["RAY_AUTH_TOKEN"]
    assert len(made) == 64
    make_token()
    assert os.environ["RAY_AUTH_TOKEN"] == made
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("secret")
    make_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_local_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_address() == ""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address() == ""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster_address() == "auto"


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
