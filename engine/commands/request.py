"""What a run, store or training is asked to hold."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from engine.commands.configuration import read_settings
from engine.errors import ConfigError, DataError
from engine.settings import Settings
from engine.storage import manifest
from engine.storage.cache import local_copy
from engine.storage.formats.in_memory import as_labels, as_vectors, is_place
from engine.storage.formats.label_files import read_labels
from engine.storage.formats.packed_bits import Bits
from engine.storage.outputs import out_folder
from engine.storage.paths import check_file, check_folder_of_files, explain_reading, lies_there
from engine.storage.places import GIVEN_FOLDER
from engine.storage.remote import absolute, is_url

Kind = Literal["run", "store", "training", "update"]


@dataclass(frozen=True)
class Request:
    """What a run, store or training is asked for. Its folder keeps it, so that the folder alone is enough to resume."""

    features: str
    settings: Settings = field(default_factory=Settings)
    model: str | None = None
    labels: str | None = None
    knn_graph: str | None = None
    dim: int | None = None
    column: str | None = None
    items_column: str | None = None
    bits: Bits | None = None  # how the vectors hold packed bits
    labels_column: str | None = None
    decisions: str | None = None
    items_root: tuple[str, ...] | None = None  # folders of pictures for the report, besides the source's
    out: str | None = None  # of a training: where its model goes

    def as_dict(self) -> dict[str, Any]:
        tree = {**self.__dict__, "settings": self.settings.model_dump(mode="json", exclude_unset=True)}
        return {name: value for name, value in tree.items() if value is not None}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Request:
        values = {name: value for name, value in tree.items() if name != "source"}
        folders = values.get("items_root")
        return cls(
            **{
                **values,
                "settings": read_settings(values.get("settings", {})),
                "items_root": None if folders is None else tuple(folders),
            }
        )


class Given:
    """The data that a Python caller passed to a run, kept in the run's folder, so that the folder is enough to resume.

    A context: if its block raises, because the request is refused, what was kept for it is deleted again. A path or URL
    is no data and stays where it is.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = root
        self._new: list[Path] = []
        self._made: list[Path] = []  # folders, the deepest first
        self._changed: tuple[int, int] | None = None  # times of the folder, if there was one

    def __enter__(self) -> Given:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        for path in self._new:
            path.unlink(missing_ok=True)
        for folder in self._made:
            with suppress(OSError):  # another process writes there
                folder.rmdir()
        if self._changed is not None:
            os.utime(Path(out_folder(self._root, option="out")) / GIVEN_FOLDER, ns=self._changed)

    def vectors(self, value: Any, name: str = "features") -> str:
        """Return the absolute path or URL of vectors: the caller's, or that of the file with the caller's data."""
        return absolute(value) if is_place(value) else self._keep(as_vectors(value, name), name)

    def labels(self, value: Any, name: str = "labels") -> str:
        """Return the absolute path or URL of labels, likewise."""
        return absolute(value) if is_place(value) else self._keep(as_labels(value, name), name)

    def ids(self, values: Sequence[Any], name: str = "ids") -> str:
        """Return the path of a file with rows' ids, one to a line. Raises ``DataError`` for one that holds a break."""
        names = [str(each) for each in values]
        broken = next((name for name in names if "\n" in name), None)
        if broken is not None:
            raise DataError(f"id {broken!r} holds a line break; a file of ids has one to a line")
        text = "".join(f"{name}\n" for name in names).encode("utf-8", "surrogatepass")
        path = (
            Path(out_folder(self._root, option="out"))
            / GIVEN_FOLDER
            / f"{name}-{manifest.bytes_checksum(text)[:12]}.txt"
        )
        manifest.write_atomic(path, lambda stream: stream.write(text))
        return str(path)

    def _keep(self, array: np.ndarray, name: str) -> str:
        """Save an array under a name that follows from its content, unless it is there already."""
        if is_url(self._root):
            raise ConfigError(f"{name}: data cannot be kept at {self._root}; save it to a file, or at a URL, first")
        array = np.ascontiguousarray(array)
        hasher = xxhash.xxh3_128(f"{array.shape} {array.dtype.str}".encode())
        if array.size:
            hasher.update(array.reshape(-1).view(np.uint8).data)
        folder = Path(out_folder(self._root, option="out")) / GIVEN_FOLDER
        path = folder / f"{name}-{hasher.hexdigest()[:12]}.npy"
        if lies_there(path):
            check_file(path)
        self._made = self._made or [each for each in (folder, *folder.parents) if not each.exists()]
        if folder.is_dir() and not self._new:
            self._changed = (folder.stat().st_atime_ns, folder.stat().st_mtime_ns)
        if not path.exists() or not _holds(path, array):
            self._new += [] if path.exists() else [path]
            manifest.write_atomic(path, lambda stream: np.lib.format.write_array(stream, array, allow_pickle=False))
        return str(path)


def labels_of_any(value: Any, name: str = "labels", *, column: str | None = None) -> np.ndarray:
    """Read labels (N,) int64 of a path, URL or a caller's data. ``column``: as ``read_labels``."""
    return read_labels(local_copy(value), column=column) if is_place(value) else as_labels(value, name)


def place_of(value: Any, name: str) -> str | None:
    """Return the absolute path or URL of what a file alone can hold; ``None`` if it was not given."""
    if value is None or is_place(value):
        return None if value is None else absolute(value)
    raise ConfigError(f"{name}: expected a path or URL, got {type(value).__name__}")


def _holds(path: Path, array: np.ndarray) -> bool:
    """Tell whether a file holds a contiguous array byte for byte; it may have been damaged since it was written."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    hasher = xxhash.xxh3_128(header.getvalue())
    if array.size:
        hasher.update(array.reshape(-1).view(np.uint8).data)
    with explain_reading(path):
        return manifest.file_checksum(path) == hasher.hexdigest()


def items_folders(folders: Sequence[str | Path] | None) -> tuple[str, ...] | None:
    """Make the folders of ``--items-root`` absolute. Raises ``DataError`` for a folder that cannot be read."""
    for folder in folders or ():
        if is_url(folder):
            raise ConfigError(f"--items-root {folder}: pictures are read from folders of this machine alone")
        check_folder_of_files(Path(absolute(folder)))
    return tuple(absolute(folder) for folder in folders) if folders else None
