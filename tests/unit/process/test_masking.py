"""No secret is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.process.masking import masked
from engine.runs.events import EventLog, read_events
from engine.storage.places import Place


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://user:hunter2@host/bucket/f.npy", "s3://***@host/bucket/f.npy"),
        ("cannot read 'https://k@h/x?a=1'", "cannot read 'https://***@h/x?a=1'"),
        ("https://h/f?X-Amz-Signature=abc&part=2", "https://h/f?X-Amz-Signature=***&part=2"),
        ("gs://b/f?access_token=abc#top", "gs://b/f?access_token=***"),
        ("az://b/f?sv=2024&sig=a%2Fb", "az://b/f?sv=2024&sig=***"),
        ("s3://bucket/user@host/f.npy?versionId=7", "s3://bucket/user@host/f.npy?versionId=7"),
        ("s3://KEY:se/cr@et@bucket/f", "s3://***@bucket/f"),
        ("https:/user:hunter2@h/f: no such file", "https:/***@h/f: no such file"),
        ("git+ssh://user:hunter2@h", "git+ssh://***@h"),
        ("https://h/f?pwd=a&n=1 or https://h/f?auth=b", "https://h/f?pwd=***&n=1 or https://h/f?auth=***"),
        ("https://h/#access_token=abc", "https://h/#access_token=***"),
        ("sent Authorization: Bearer a.b/c=", "sent Authorization: Bearer ***"),
        ("{'authorization': 'Basic YTpi'}", "{'authorization': 'Basic ***'}"),
        ("a bearer of news: 5 rows, s3://b/f: 3 bytes", "a bearer *** news: 5 rows, s3://b/f: 3 bytes"),
        ("s3://bucket/f: expected 3; ask me@host", "s3://bucket/f: expected 3; ask me@host"),
        ("/data/mail@host/key=1/f.npy", "/data/mail@host/key=1/f.npy"),
    ],
)
def test_secrets_of_urls(given: str, kept: str) -> None:
    assert masked(given) == kept
    assert masked({"a": [given, 1], "b": (None, given)}) == {"a": [kept, 1], "b": [None, kept]}


SECRETS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="&"), min_size=6)
PLACES = [
    "s3://KEY:{}@bucket/f.npy", "git+ssh://user:{}@host", "https:/user:{}@h", "https://h/f?pwd={}",
    "https://h/f?a=1&auth={}", "https://h/f?X-Amz-Security-Token={}&b=2", "https://h/f#access_token={}",
    "Authorization: Bearer {}", "authorization=Basic {}", "curl -H 'Authorization: token {}'", "bearer {}",
]  # fmt: skip


@settings(deadline=None)
@given(SECRETS, st.sampled_from(PLACES), st.sampled_from(["{}", "cannot read '{}': no", '{{"a": "{}"}}']))
def test_no_generated_secret_is_left(secret: str, place: str, around: str) -> None:
    text = around.format(place.format(secret))
    assert secret not in masked(text)
    assert secret not in str(masked({"a": [text]}))


def test_long_words_are_masked_in_bounded_time() -> None:
    for word in ("a", "://", "a://", "?#;&", "a:", "?key", "@", "bearer"):
        masked(word * 20_000)


def test_nothing_of_them_is_in_a_runs_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "opensesame")
    EventLog(Place(tmp_path)).write("run_failed", error="https://user:hunter2@host/f?token=opensesame said opensesame")
    (event,) = read_events(tmp_path)
    assert event["error"] == "https://***@host/f?token=*** said ***"
