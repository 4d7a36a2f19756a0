"""What commands write for their user: where, in which format, and never over what they read."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from engine import api
from engine.commands.conversion import convert
from engine.comparison.compare import compare
from engine.errors import ConfigError
from engine.report.images import digit_png
from engine.storage.outputs import out_file, out_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vectors, their items and labels, and a finished run of them."""
    here = tmp_path_factory.mktemp("finished")
    identities = np.repeat(np.arange(10), 6)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((10, 16))[identities] + 0.1 * rng.standard_normal((60, 16))
    np.save(here / "x.npy", vectors.astype(np.float32))
    (here / "items.txt").write_text("".join(f"row {row}\n" for row in range(60)))
    np.save(here / "y.npy", identities)
    api.cluster(here / "x.npy", labels=here / "y.npy", workspace=here / "run", partition={"min_score": 0.8})
    return here


@pytest.fixture
def bucket() -> Iterator[str]:
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def test_an_export_takes_the_format_of_its_name(finished: Path, tmp_path: Path) -> None:
    labels = api.run_labels(finished / "run")
    assert api.export(finished / "run", tmp_path / "a.parquet") == str(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["item"].to_pylist()[7] == "row 7"
    api.export(finished / "run", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().startswith('"row","label","item","confidence"')
    api.export(finished / "run", tmp_path / "c.csv", clusters=True)
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 11
    api.export(finished / "run", tmp_path / "plain")
    np.testing.assert_array_equal(np.load(tmp_path / "plain"), labels)


def test_an_export_and_a_report_go_to_a_url(finished: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    before = sorted(finished.rglob("*"))
    assert api.export(finished / "run", f"{bucket}/deep/labels.parquet") == f"{bucket}/deep/labels.parquet"
    with fsspec.open(f"{bucket}/deep/labels.parquet") as stream:
        np.testing.assert_array_equal(pq.read_table(stream)["label"].to_numpy(), api.run_labels(finished / "run"))
    place, _ = api.report(finished / "run", f"{bucket}/report.html")
    with fsspec.open(place) as stream:
        assert stream.read().startswith(b"<!DOCTYPE html>")
    assert sorted(finished.rglob("*")) == before
    for url in ("memory://bucket/", "memory://bucket/folder/", "memory://bucket"):
        with pytest.raises(ConfigError, match="names a folder"):
            out_file(url)
    with pytest.raises(ConfigError, match="lies in memory://bucket/run, which this command reads"):
        out_file(f"{bucket}/run/labels.npy", never=[f"{bucket}/run"])
    assert out_file(f"{bucket}/run-labels.npy", never=[f"{bucket}/run"])


def test_what_a_run_was_made_from_is_never_written_over(finished: Path, tmp_path: Path) -> None:
    held = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    (tmp_path / "link.npy").symlink_to(finished / "x.npy")
    (tmp_path / "folder").symlink_to(finished / "run")
    os.link(finished / "y.npy", tmp_path / "same.npy")
    for out in (
        finished / "x.npy", finished / "y.npy", finished / "items.txt", tmp_path / "link.npy", tmp_path / "same.npy",
        finished / "run/labels.npy", tmp_path / "folder/labels.npy", tmp_path / "folder/deep/labels.npy",
        f"file://{finished}/x.npy", finished / "none/../x.npy",
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="which this command reads"):
            api.export(finished / "run", out)
        with pytest.raises(ConfigError, match="which this command reads"):
            api.report(finished / "run", out)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == held


def test_a_report_elsewhere_leaves_the_run_as_it_is(finished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*")}
    (tmp_path / "there.html").write_text("an older one")
    place, warnings = api.report(finished / "run", tmp_path / "there.html")
    assert warnings == []
    assert Path(place).read_text().startswith("<!DOCTYPE html>")
    assert os.listdir(tmp_path) == ["there.html"]
    assert {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*")} == before


def test_pictures_of_the_report_lie_beside_the_source_or_in_named_folders(finished: Path, tmp_path: Path) -> None:
    for name in ("data", "album", "private"):
        (tmp_path / name).mkdir()
    shutil.copy(finished / "x.npy", tmp_path / "data/x.npy")
    uri = digit_png(np.eye(5))
    raw = base64.b64decode(uri.partition(",")[2])
    for place in ("data/own.png", "album/named.png", "private/secret.png"):
        (tmp_path / place).write_bytes(raw)
    names = ["own.png", "named.png", "../private/secret.png", str(tmp_path / "private/secret.png")]
    (tmp_path / "data/items.txt").write_text("".join(f"{names[row % 4]}\n" for row in range(60)))
    result = api.cluster(tmp_path / "data/x.npy", workspace=tmp_path / "run", partition={"min_score": 0.8})
    page = result.report.read_text()
    assert page.count(uri) > 0
    assert "2 outside the source&#x27;s folder" in page
    assert "1 missing" in page
    _, warnings = api.report(tmp_path / "run", tmp_path / "more.html", items_root=[tmp_path / "album"])
    more = (tmp_path / "more.html").read_text()
    assert more.count(uri) == 2 * page.count(uri)
    assert warnings == [
        "Pictures that are not shown: 2 outside the source's folder. Name their folder with --items-root."
    ]
    stages = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    again = api.cluster(
        tmp_path / "data/x.npy", workspace=tmp_path / "run", partition={"min_score": 0.8}, items_root=tmp_path / "album"
    )  # what a report shows changes no stage
    assert again.report.read_text().count(uri) == more.count(uri)
    assert stages == sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    api.resume(tmp_path / "run", progress=False)
    assert again.report.read_text().count(uri) == more.count(uri)


def test_an_empty_place_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    monkeypatch.chdir(tmp_path)
    vectors = np.eye(8, dtype=np.float32)
    for call in (
        lambda: api.cluster(vectors, workspace=""), lambda: api.train(vectors, np.arange(8) // 2, " "),
        lambda: compare(finished / "x.npy", finished / "y.npy", "", ["cosine"]), lambda: api.make_standin("", 5, 0),
        lambda: api.export(finished / "run", ""), lambda: api.report(finished / "run", ""), lambda: out_folder(""),
        lambda: convert("gcn_v", [finished / "x.npy"], ""),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="is empty; name a place to write to"):
            call()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_else_is_not_filled(finished: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    kept = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="which this command reads"):
        convert("l_gcn", [tmp_path / "model.safetensors"], tmp_path)
    with pytest.raises(ConfigError, match="is not empty and holds no converted model"):
        convert("l_gcn", [finished / "x.npy"], tmp_path)
    with pytest.raises(ConfigError, match="is not empty and holds no comparison"):
        compare(finished / "x.npy", finished / "y.npy", tmp_path, ["cosine"])
    with pytest.raises(ConfigError, match="is not empty and holds no comparison"):
        compare(finished / "x.npy", finished / "y.npy", finished / "run", ["cosine"])
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == kept
    with pytest.raises(ConfigError, match="a comparison is written to a folder of this machine"):
        compare(finished / "x.npy", finished / "y.npy", "s3://bucket/c", ["cosine"])
    with pytest.raises(ConfigError, match="stand-in data are made in a folder of this machine"):
        api.make_standin("s3://bucket/c", 5, 0)


def test_stand_in_data_are_not_put_into_a_run(finished: Path) -> None:
    for out in (finished / "run", finished / "run" / "data"):
        with pytest.raises(ConfigError, match="holds a run, a store or a model"):
            api.make_standin(out, 5, 0)


def test_a_report_is_a_page(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        api.report(finished / "run", tmp_path / "report.npy")
