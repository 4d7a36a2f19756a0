"""Stand-in data as files or a store."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from engine.commands.execution import execute
from engine.commands.preparation import prepare
from engine.commands.request import Request
from engine.commands.standin import BLOCK_ROWS, DIM, TILE_ROWS, synthesize
from engine.errors import ConfigError
from engine.storage.formats.export import BinWriter, MetaWriter, as_lines
from engine.storage.outputs import out_file, out_folder
from engine.storage.paths import check_out_file, explain_reading
from engine.storage.remote import is_url
from engine.tiles import usable_cores


def write_standin(
    out_dir: str | Path, num_identities: int, seed: int, *, block_rows: int = BLOCK_ROWS, threads: int = 1
) -> tuple[Path, Path]:
    """Write ``features.bin`` (float32 N×256) and ``labels.meta`` (a label per line) in ``out_dir``; return both paths.

    Streams block by block; each file takes its name only when whole. Files of these names that are there already are
    replaced only if they begin as the new ones do: written by the same call before. Raises as ``synthesize``,
    ``ConfigError`` for other files of these names, and ``DiskBudgetExceeded`` if the disk is full.
    """
    features, labels = (check_out_file(Path(out_dir, name)) for name in ("features.bin", "labels.meta"))
    standin = synthesize(num_identities, seed, threads)
    for path in (path for path in (features, labels) if path.exists()):
        first_ND, first_N = standin.rows(0, min(standin.num_rows, TILE_ROWS), threads)
        if not _begins(path, first_ND.tobytes() if path == features else as_lines(first_N)):
            raise ConfigError(f"--out {out_dir}: {path.name} there holds other data; choose another folder, or move it")
    with BinWriter(features) as vectors, MetaWriter(labels) as lines:
        for features_ND, labels_N in standin.blocks(block_rows, threads):
            vectors.append(features_ND)
            lines.append(labels_N)
    return features, labels


def _begins(path: Path, begins: bytes) -> bool:
    with explain_reading(path), path.open("rb") as stream:
        return stream.read(len(begins)) == begins


def make_standin(
    out: str | Path, num_identities: int, seed: int, file_format: Literal["bin", "store"] = "bin", threads: int = 0
) -> list[Path]:
    """Make stand-in vectors and labels in the folder ``out``, as ``features.bin`` or a store; returns what it wrote.

    Files of these names that hold other data are refused, not replaced.
    """
    if is_url(out):
        raise ConfigError(f"--out {out}: stand-in data are made in a folder of this machine")
    out = Path(out_folder(out))
    out_file(out / "features.bin")  # refused inside a run
    features, labels = write_standin(out, num_identities, seed, threads=threads or usable_cores())
    if file_format == "bin":
        return [features, labels]
    store = out / "store"
    execute(prepare("store", store, Request(features=str(features), dim=DIM)), progress=False)
    features.unlink()
    return [store, labels]
