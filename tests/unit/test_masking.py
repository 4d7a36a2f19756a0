"""No secret is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_stages import CrashingExecutor, make_toy_plan

from engine.masking import masked
from engine.plan import CHUNK_ROWS
from engine.progress import Quiet
from engine.runner import Workshop, run_plan


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


def test_nothing_of_them_is_in_a_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "opensesame")
    url = "s3://user:hunter2@host/features.npy?token=opensesame"
    plan = make_toy_plan(2 * CHUNK_ROWS, first="refuse", block_rows=CHUNK_ROWS, url=url)
    request = {"source": {"digest": url, "path": url, "num_rows": 1, "dim": 1}, "features": url}
    with pytest.raises(ValueError):
        run_plan(plan, Workshop(tmp_path / "run", CrashingExecutor(), Quiet(), 1, "cpu"), request)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"run.json", "events.jsonl", "stage.json"} <= {path.name for path in written}
    for path in written:
        assert "hunter2" not in path.read_text(), path
        assert "opensesame" not in path.read_text(), path
