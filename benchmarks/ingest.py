"""Ingestion of ten gigabytes beside a plain copy: ``.bin``, ``.npy`` and zarr to normalised float16 chunks.

    python benchmarks/ingest.py [--quick] [--rows 10000000] [--formats bin npy zarr] [--work FOLDER]

Each source (float32, 256 dimensions; zarr with and without its default compression) is made, dropped from the system's
cache, ingested in a process of its own, and removed. ``copy`` is the floor: the same bytes read in order and half as
many written to chunk files and flushed, with nothing computed. ``read_bytes`` is what the process asked of the disk.
Writes ``benchmarks/records/ingest.json`` (``ingest_quick.json`` with ``--quick``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from apart import measure_apart, timed
from recording import write_record

from engine import api
from engine.tiles import usable_cores
from engine.units import CHUNK_ROWS

ROWS, QUICK_ROWS, DIM, BLOCK_ROWS = 10_000_000, 500_000, 256, 81_920
FORMATS = ("bin", "npy", "zarr", "zarr_compressed")
COPY = "copy"


def blocks(num_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Draw the rows, block by block."""
    random = np.random.Generator(np.random.SFC64(1))
    for start in range(0, num_rows, BLOCK_ROWS):
        yield start, random.standard_normal((min(BLOCK_ROWS, num_rows - start), DIM), np.float32)


def make_source(work: Path, kind: str, num_rows: int) -> Path:
    """Write a source and flush it to the disk."""
    suffix = {"bin": "source.bin", "npy": "source.npy"}.get(kind, "source.zarr")
    path = work / suffix
    shape = (num_rows, DIM)
    if kind in ("bin", "npy"):
        with path.open("wb") as stream:
            if kind == "npy":
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
            for _, rows in blocks(num_rows):
                stream.write(rows.data)
    else:
        compression = {} if kind == "zarr_compressed" else {"compressors": None}
        array = zarr.create_array(str(path), shape=shape, dtype="f4", chunks=(8192, DIM), **compression)
        for start, rows in blocks(num_rows):
            array[start : start + len(rows)] = rows
    os.sync()
    return path


def drop_cached(path: Path) -> None:
    """Ask the system to forget what it holds of a file, or the files of a folder, in memory."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def ingest(source: Path, out: Path) -> None:
    """Make a store, as ``asterism ingest`` does."""
    request = api.Request(features=str(source), dim=DIM)
    api.execute(api.prepare("store", out, request), progress=False)


def copy(source: Path, out: Path) -> None:
    """Read the source in order; write half of each chunk's bytes to a file of its own, flushed."""

    def write(number: int, piece: memoryview) -> None:
        with open(out / str(number), "wb", buffering=0) as stream:
            stream.write(piece)
            os.fsync(stream.fileno())

    out.mkdir()
    threads = usable_cores() + 2
    pending = []
    with ThreadPoolExecutor(threads) as pool, source.open("rb", buffering=0) as stream:
        while True:
            piece = bytearray(CHUNK_ROWS * DIM * 4)
            count = stream.readinto(piece)
            if not count:
                break
            pending.append(pool.submit(write, len(pending), memoryview(piece)[: count // 2]))
            if len(pending) > 2 * threads:
                pending[-2 * threads].result()
        for future in pending:
            future.result()


def main() -> None:
    """Make, measure and remove each source in turn; print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, 0.5 GB")
    parser.add_argument("--work", type=Path, help="folder on the disk to measure; default: a temporary one")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(*arguments.measure)
    num_rows = QUICK_ROWS if arguments.quick else arguments.rows
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        for kind in arguments.formats:
            source = make_source(Path(temporary), kind, num_rows)
            for what in (kind, COPY) if kind == "bin" else (kind,):
                rows.append(measure_source(Path(temporary), source, what, num_rows))
            shutil.rmtree(source) if source.is_dir() else source.unlink()
    settings = {"num_rows": num_rows, "dim": DIM, "source_bytes": num_rows * DIM * 4, "threads": usable_cores()}
    write_record("ingest_quick" if arguments.quick else "ingest", settings, {"rows": rows})
    return None


def measure_source(work: Path, source: Path, what: str, num_rows: int) -> dict[str, Any]:
    """Measure one ingestion, or the copy, from a cold cache; leave no output."""
    drop_cached(source)
    out = work / "out"
    row = {"what": what, **measure_apart(__file__, ["--measure", what, str(source), str(out)])}
    shutil.rmtree(out, ignore_errors=True)
    if "seconds" in row:
        row["source_bytes_per_s"] = round(num_rows * DIM * 4 / max(row["seconds"], 0.01))
        print(f"{what:16} {row['seconds']:7.1f} s  {row['source_bytes_per_s'] / 1e9:5.2f} GB/s of source  "
              f"{row['read_bytes'] / 1e9:6.2f} GB read  peak {row['peak_bytes'] / 1e9:.2f} GB", flush=True)  # fmt: skip
    else:
        print(f"{what:16} failed: {row['failed']}", flush=True)
    return row


def measure(what: str, source: str, out: str) -> None:
    """In a process of its own: ingest or copy."""
    with tempfile.TemporaryDirectory() as warm:  # everything is loaded
        np.save(Path(warm, "x.npy"), np.ones((2, DIM), np.float32))
        ingest(Path(warm, "x.npy"), Path(warm, "store"))
    before = psutil.Process().io_counters()
    _, seconds = timed(lambda: (copy if what == COPY else ingest)(Path(source), Path(out)))
    after = psutil.Process().io_counters()
    moved = {name: getattr(after, name) - getattr(before, name) for name in ("read_bytes", "write_bytes")}
    print(json.dumps({"seconds": seconds, **moved}))


if __name__ == "__main__":
    sys.exit(main())
