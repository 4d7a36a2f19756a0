"""The two parts of a comparison's source: train rows and test rows, with their vectors and labels as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.request import Request
from engine.commands.run_folder import COMPARISON_STORE, vectors_folder
from engine.errors import DataError
from engine.methods.cdp.settings import CdpSettings
from engine.methods.registry import METHODS
from engine.random_streams import COMPARED_HALVES, stream
from engine.sections import fingerprint
from engine.settings import Settings
from engine.storage import manifest
from engine.storage.arrays import map_array
from engine.storage.cache import local_copy
from engine.storage.formats.export import write_labels
from engine.storage.formats.label_files import read_labels
from engine.storage.manifest import OutputFile
from engine.storage.owned import Count, Digest, FileKind, Sealed, read_owned
from engine.tiles import tile_bounds

STORE = COMPARISON_STORE
MADE_AGAIN = "asterism compare makes it again"
COPY_ROWS = 65_536


class PartFile(Sealed):
    """Size and checksum of a part's vectors."""

    num_bytes: Count
    content: Digest


PART = FileKind(PartFile, MADE_AGAIN)


@dataclass(frozen=True)
class Part:
    """The train or test rows: a request without settings, and the committee's vectors of the same rows."""

    request: Request
    committee: tuple[str, ...]

    def asked(self, settings: Settings) -> Request:
        """The request with a method's settings."""
        if self.committee and METHODS[settings.method].takes_committee:
            cdp = settings.of(CdpSettings).model_copy(update={"committee": self.committee})
            settings = settings.with_section(cdp)
        return replace(self.request, settings=settings)


def split_identities(labels_N: np.ndarray, seed: int) -> np.ndarray:
    """Put half of the identities, drawn from the seed, into 0, the others and unknown rows into 1: (N,) int8."""
    known, places = np.unique(labels_N, return_inverse=True)
    halves = stream(seed, COMPARED_HALVES).permutation(len(known)) % 2
    return np.where(labels_N < 0, 1, halves[places]).astype(np.int8)


def read_split(path: str | Path, labels_N: np.ndarray) -> np.ndarray:
    split_N = read_labels(local_copy(path), len(labels_N))
    if not np.isin(split_N, (0, 1)).all():
        row = int(np.flatnonzero(~np.isin(split_N, (0, 1)))[0])
        raise DataError(f"{path}, row {row}: expected 0 (train) or 1 (test), got {split_N[row]}")
    both = np.intersect1d(labels_N[(split_N == 0) & (labels_N >= 0)], labels_N[(split_N == 1) & (labels_N >= 0)])
    if len(both):
        raise DataError(f"{path}: identity {both[0]} has rows of both parts; expected every identity in one")
    return split_N.astype(np.int8)


def write_parts(out: Path, labels_N: np.ndarray, split_N: np.ndarray, committee: Sequence[Path]) -> dict[int, Part]:
    """The two parts' vectors and labels as files, from the stores."""
    parts = {}
    for number, name in ((0, "train"), (1, "test")):
        rows = np.flatnonzero(split_N == number)
        sizes = np.unique(labels_N[rows][labels_N[rows] >= 0], return_counts=True)[1]
        if sizes.max(initial=0) < 2:
            raise DataError(
                f"the {name} part has {len(rows):,} rows of {len(sizes):,} known identities, none of two rows; "
                f"expected identities of several rows in both parts"
            )
        digest = fingerprint([rows.tolist(), labels_N[rows].tolist()])[:12]
        folder = out / f"{name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        labels = folder / "labels.npy"
        features, *members = (_write_rows(folder, store, rows) for store in (out / STORE, *committee))
        write_labels(labels, labels_N[rows], "npy")
        parts[number] = Part(Request(features=features, labels=str(labels)), tuple(members))
    return parts


def _write_rows(folder: Path, store: Path, rows: np.ndarray) -> str:
    path = folder / ("features.npy" if store.name == STORE else f"{store.name}.npy")
    noted = path.with_suffix(".json")
    if not _is_whole(path, noted):
        features_ND = map_array(vectors_folder(store, "features"), "features")
        for place in (path, noted):
            manifest.remove_place(place)
        written = manifest.write_atomic(path, lambda stream: _copy_rows(stream, features_ND, rows))
        manifest.write_owned(noted, PART, {"num_bytes": written.num_bytes, "content": written.checksum})
    return str(path)


def _is_whole(path: Path, noted: Path) -> bool:
    """Tell whether a part's vectors are what was written: a damaged file would be another source, and be scored."""
    try:
        held = read_owned(noted, PART)
    except DataError:
        return False
    return manifest.output_damage(path.parent, OutputFile(path.name, held["num_bytes"], held["content"])) is None


def _copy_rows(stream: Any, features_ND: np.ndarray, rows: np.ndarray) -> None:
    header = {"descr": features_ND.dtype.str, "fortran_order": False, "shape": (len(rows), features_ND.shape[1])}
    np.lib.format.write_array_header_1_0(stream, header)
    for start, stop in tile_bounds(0, len(rows), COPY_ROWS):
        stream.write(np.ascontiguousarray(features_ND[rows[start:stop]]).tobytes())
