"""The versions of a collection: the full run, and what each update has committed in a folder of its own.

    RUN/updates/000001/    rows were added:   ingest, added, clusters
    RUN/updates/000002/    rows were removed: gone, compacted, clusters
    RUN/updates/000003/    a compaction:      compacted

Each is a small run with records, so an update that was killed is resumed like any run. A version is the last finished
update. It rests on the last compaction, or on the full run, and on the additions since. Updates before the last
compaction are deleted, and after a removal all that the full run has left, too.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.kept import Kept
from engine.collection.since import Since, since_full_run
from engine.collection.state import Layer, State, kept_ids, layer_ids, open_state
from engine.errors import DataError
from engine.storage import manifest
from engine.storage.context import read_npy
from engine.storage.places import GIVEN_FOLDER
from engine.storage.row_ids import RowIds

UPDATES = "updates"
COMPACTION = "+compaction"  # after the digest of the update before
KEPT_FILE = "kept.json"
GIVEN_TO_UPDATES = ("rows", "ids")  # what names of files begin with that a Python caller gave to an update
_NUMBERED = re.compile(r"[0-9]{6}")
_STAGE_FOLDER = re.compile(r"[a-z_0-9]+-[0-9a-f]{12}")


@dataclass(frozen=True)
class Version:
    """A version: its number, 0 for the full run, what it rests on, and its layers.

    ``clusters``: the stage that clustered after the compaction that it rests on. ``source``: the digest of what the
    last update was asked to add or remove. ``oldest``: the number of the first update that it needs.
    """

    number: int
    kept: Kept
    layers: tuple[Layer, ...] = ()
    clusters: Path | None = None
    source: str = ""
    oldest: int = 1

    @property
    def digest(self) -> str:
        """What identifies the version in fingerprints of the next one."""
        return f"{self.number}:{self.source}"

    def labels(self, root: Path) -> np.ndarray:
        """Read the cluster of each row, (N,) int64, without opening anything else."""
        if self.layers:
            assert self.layers[-1].clusters is not None
            return np.array(read_npy(self.layers[-1].clusters, "labels"))
        if self.clusters is not None:
            return np.array(read_npy(self.clusters, "labels"))
        return np.array(read_npy(root / self.kept.labels[0], self.kept.labels[1]))

    def ids(self, root: Path) -> RowIds:
        """Read the ids of all rows."""
        ids, next_row = kept_ids(root, self.kept), self.kept.next_row
        for layer in self.layers:
            if layer.added is not None:
                new_ids = layer_ids(layer.folders[1], next_row, layer.num_rows)
                ids, next_row = ids.joined(new_ids), new_ids.next_number(next_row)
        return ids

    def since(self) -> Since:
        """Tell what has changed since the full run."""
        return since_full_run(self.kept, self.layers)

    def open(self, root: Path, *, room: int = 0, threads: int = 1) -> State:
        """Open the version, with room for so many further rows."""
        return open_state(root, self.kept, self.layers, self.clusters, room=room, threads=threads)


def update_folder(root: Path, number: int) -> Path:
    """The folder of an update."""
    return root / UPDATES / f"{number:06d}"


def update_numbers(root: Path) -> list[int]:
    """The numbers of the updates whose folders are there, ascending; the last may not be finished."""
    folder = root / UPDATES
    names = [path.name for path in folder.iterdir() if _NUMBERED.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(int(name) for name in names if (folder / name / manifest.RUN_FILE).is_file())


def finished_updates(root: Path) -> list[int]:
    """The numbers of the finished updates that are there."""
    return [number for number in update_numbers(root) if _held(root, number)["state"] == "finished"]


def unfinished_update(root: Path) -> tuple[int, dict[str, Any]] | None:
    """The number and manifest of an update that was begun and is not finished."""
    for number in reversed(update_numbers(root)):
        held = _held(root, number)
        if held["state"] != "finished":
            return number, held
        return None
    return None


def is_compaction(held: dict[str, Any]) -> bool:
    """Tell whether an update's manifest is that of a compaction, which nobody asked for."""
    return str(held["request"]["source"]["digest"]).endswith(COMPACTION)


def current_version(root: Path, kept_by_run: Any) -> Version:
    """The last version. ``kept_by_run`` gives what the full run keeps; it is asked if no compaction stands for it."""
    numbers, folder = finished_updates(root), _last_compaction(root)
    if folder is None:
        version = Version(0, kept_by_run())
    else:
        last = int(folder.parent.name)
        version = Version(last, _kept(folder), (), _stages(root, last).get("clusters"), _source(root, last), last)
    for number in numbers:
        if number <= version.number:
            continue
        if number != version.number + 1:
            raise DataError(f"{update_folder(root, version.number + 1)} is missing: the collection cannot be read")
        stages = _stages(root, number)
        layers = version.layers
        source = _source(root, number)
        if "clusters" in stages:
            rows = stages.get("added"), stages.get("ingest")
            layers = (*layers, Layer(*rows, stages["clusters"], source, number))
        version = Version(number, version.kept, layers, version.clusters, source, version.oldest)
    return version


def rows_removed(root: Path) -> bool:
    """Tell whether an update has removed rows, and with them all that the full run has left."""
    folder = _last_compaction(root)
    return folder is not None and _kept(folder).removed > 0


def _last_compaction(root: Path) -> Path | None:
    """The folder of the last finished stage that wrote all anew; ``None`` if there is none."""
    stages = (_stages(root, number) for number in reversed(finished_updates(root)))
    return next((each["compacted"] for each in stages if "compacted" in each), None)


def updated_labels(root: Path) -> np.ndarray | None:
    """Read the clusters that the last update made, (N,) int64; ``None`` if the run has had no update."""
    for number in reversed(finished_updates(root)):
        stages = _stages(root, number)
        if "clusters" in stages:
            return np.array(read_npy(stages["clusters"], "labels"))
        if "compacted" in stages:
            return np.array(read_npy(stages["compacted"], "labels"))
    return None


def delete_old(root: Path, version: Version, keep: str = "") -> list[str]:
    """Delete what no version reads any more; return the names of what was deleted.

    ``keep``: the file of the update that is about to be made. What a caller gave to earlier ones goes, too.
    """
    gone = [update_folder(root, number) for number in update_numbers(root) if number < version.oldest]
    begun = unfinished_update(root)
    kept = {keep, str(begun[1]["request"]["features"]) if begun is not None else ""}
    given = sorted((root / GIVEN_FOLDER).iterdir()) if (root / GIVEN_FOLDER).is_dir() else []
    gone += [
        path
        for path in given
        if str(path) not in kept and (version.kept.removed or path.name.startswith(tuple(GIVEN_TO_UPDATES)))
    ]
    if version.kept.removed:
        gone += [path for path in sorted(root.iterdir()) if _STAGE_FOLDER.fullmatch(path.name)]
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [path.name for path in gone]


def _kept(folder: Path) -> Kept:
    return Kept.from_json(manifest.read_json(folder / KEPT_FILE))


def _held(root: Path, number: int) -> dict[str, Any]:
    return manifest.read_run(update_folder(root, number))


def _source(root: Path, number: int) -> str:
    return str(_held(root, number)["request"]["source"]["digest"])


def _stages(root: Path, number: int) -> dict[str, Path]:
    folder = update_folder(root, number)
    stages = _held(root, number)["plan"]["stages"]
    return {stage["name"]: folder / f"{stage['name']}-{stage['digest'][:12]}" for stage in stages}
