"""The gate for places: what may be read, what may be written, which names stay inside a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ConfigError, DataError
from engine.storage.paths import below, check_file, check_folder_of_files, check_out_file, check_out_folder


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


MAKERS: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo, "socket": make_socket, "circle": make_loop, "does not exist": make_dangling,
    "folder": Path.mkdir,
}  # fmt: skip


@pytest.mark.parametrize("word", MAKERS)
def test_only_regular_files_are_read_and_replaced(tmp_path: Path, word: str) -> None:
    place = tmp_path / "place"
    MAKERS[word](place)
    with pytest.raises(DataError, match=word) as read:
        check_file(place)
    with pytest.raises(ConfigError, match=word) as written:
        check_out_file(place)
    assert str(place) in str(read.value)
    assert str(place) in str(written.value)
    if word != "folder":
        with pytest.raises(ConfigError, match=word):
            check_out_folder(place)


def test_devices_and_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="character device"):
        check_file(Path("/dev/zero"))
    with pytest.raises(DataError, match="no such labels"):
        check_file(tmp_path / "none", "labels")
    with pytest.raises(DataError, match="no such folder"):
        check_folder_of_files(tmp_path / "none")
    with pytest.raises(DataError, match="null byte"):
        check_file(Path("a\0b"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a folder"):
        check_folder_of_files(tmp_path / "file")
    assert check_file(tmp_path / "file") == tmp_path / "file"
    assert check_folder_of_files(tmp_path) == tmp_path


@pytest.mark.parametrize("check", [check_out_file, check_out_folder])
def test_places_that_cannot_be_written(tmp_path: Path, check: Callable[[str | Path], Path]) -> None:
    (tmp_path / "file").touch()
    for place, words in (
        ("", "empty"), ("  ", "empty"), ("a\0b", "NUL"), (tmp_path / "file" / "below", "not a folder|a file"),
        (tmp_path / ("x" * 300), "too long"), (tmp_path / "new" / ("x" * 250), "too long"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            check(place)
    assert check(tmp_path / "new" / "deeper") == tmp_path / "new" / "deeper"
    assert not (tmp_path / "new").exists()


def test_what_a_command_reads_is_never_replaced(tmp_path: Path) -> None:
    source, link = tmp_path / "x.npy", tmp_path / "link"
    source.write_bytes(b"vectors")
    link.symlink_to(source)
    with pytest.raises(ConfigError, match="reads"):
        check_out_file(link, never=[source])
    os.link(source, tmp_path / "same")
    with pytest.raises(ConfigError, match="reads"):
        check_out_file(tmp_path / "same", never=[source])
    assert check_out_file(tmp_path / "y.npy", never=[source]) == tmp_path / "y.npy"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", "a\\..\\b", "a\0b"]
)
def test_names_from_elsewhere_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="stays in this folder"):
        below(tmp_path, name)


def test_names_that_stay(tmp_path: Path) -> None:
    assert below(tmp_path, "records/0.json") == tmp_path / "records" / "0.json"
    assert below(tmp_path, "..a/b..") == tmp_path / "..a" / "b.."


def test_a_link_stands_for_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    there = tmp_path / "real" / "labels.npy"
    there.touch()
    (tmp_path / "link.npy").symlink_to("real/labels.npy")
    assert check_out_file(tmp_path / "link.npy") == there


def test_open_files_of_a_process_are_not_replaced(tmp_path: Path) -> None:
    with open(tmp_path / "held", "w") as held:
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{held.fileno()}")
        for place in (tmp_path / "link", Path(f"/proc/self/fd/{held.fileno()}")):
            with pytest.raises(ConfigError, match="open file of a process"):
                check_out_file(place)


@pytest.mark.parametrize("mark", ["run.json", "model.json"])
def test_nothing_is_put_into_a_run_or_a_model(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).touch()
    for place in (tmp_path / "labels.npy", tmp_path / mark, tmp_path / "ingest" / "c" / "0"):
        with pytest.raises(ConfigError, match="holds a run, a store or a model"):
            check_out_file(place)
    with pytest.raises(ConfigError, match="holds a run, a store or a model"):
        check_out_folder(tmp_path / "below")
    assert check_out_folder(tmp_path) == tmp_path  # to resume it
