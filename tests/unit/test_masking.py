"""No secret is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.events import EventLog, read_events
from engine.masking import masked
from engine.storage.places import Place


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://user:hunter2@host/bucket/f.npy", "s3://***@host/bucket/f.npy"),
        ("cannot read 'https://k@h/x?a=1'", "cannot read 'https://***@h/x?a=1'"),
        ("https://h/f?X-Amz-Signature=abc&part=2", "https://h/f?X-Amz-Signature=***&part=2"),
        ("gs://b/f?access_token=abc#top", "gs://b/f?access_token=***#top"),
        ("az://b/f?sv=2024&sig=a%2Fb", "az://b/f?sv=2024&sig=***"),
        ("s3://bucket/user@host/f.npy?versionId=7", "s3://bucket/user@host/f.npy?versionId=7"),
        ("/data/mail@host/key=1/f.npy", "/data/mail@host/key=1/f.npy"),
    ],
)
def test_secrets_of_urls(given: str, kept: str) -> None:
    assert masked(given) == kept
    assert masked({"a": [given, 1], "b": (None, given)}) == {"a": [kept, 1], "b": [None, kept]}


def test_nothing_of_them_is_in_a_runs_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "opensesame")
    EventLog(Place(tmp_path)).write("run_failed", error="https://user:hunter2@host/f?token=opensesame said opensesame")
    (event,) = read_events(tmp_path)
    assert event["error"] == "https://***@host/f?token=*** said ***"
