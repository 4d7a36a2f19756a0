"""What a run, store or training is asked to hold."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from engine.commands.configuration import read_settings
from engine.errors import ConfigError, DataError
from engine.settings import Settings
from engine.storage import manifest
from engine.storage.outputs import out_file, out_folder
from engine.storage.paths import check_folder_of_files, explain_reading
from engine.storage.remote import absolute, is_url

Kind = Literal["run", "store", "training"]


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
    labels_column: str | None = None
    decisions: str | None = None
    items_root: tuple[str, ...] | None = None  # folders of pictures for the report, besides the source's

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


def as_path(value: np.ndarray | str | Path, beside: str | Path, name: str = "features") -> str:
    """Return a path as it is, made absolute; save an array beside the run first, so that the run can be resumed.

    The file is named by the array's content.
    """
    if isinstance(value, (str, Path)):
        return absolute(value)
    if is_url(beside):
        raise ConfigError(f"{name}: an array cannot be kept beside {beside}; save it to a file, or at a URL, first")
    array = np.ascontiguousarray(value)
    if array.dtype.hasobject:
        raise DataError(f"{name}: an array of Python objects; pass one of numbers, of shape (N, D) for vectors")
    hasher = xxhash.xxh3_128(f"{array.shape} {array.dtype.str}".encode())
    if array.size:
        hasher.update(array.reshape(-1).view(np.uint8).data)
    beside = Path(out_folder(beside, option="out"))
    path = beside.parent / f"{beside.name}.{name}-{hasher.hexdigest()[:12]}.npy"
    if not Path(out_file(path, option=f"{name}, kept beside the run:")).exists() or not _holds(path, array):
        manifest.write_atomic(path, lambda stream: np.lib.format.write_array(stream, array, allow_pickle=False))
    return str(path)


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
