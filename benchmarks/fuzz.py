"""Mutated files of every format that users give, read in full: ``python benchmarks/fuzz.py``, some 20 minutes.

Small valid files of each format are damaged ``--mutations`` times: flipped bits, cuts, insertions, splices, numbers set
to extremes in headers, zip members and JSON. Each is read in a process of its own kind, which is watched: it may read
the file or refuse it by an ``EngineError``, and nothing else; it ends by no signal, takes no more than 4 times the file
and 500 MB of memory, and no more than ``HANG_S`` seconds. What fails is kept in ``--folder``, with its number, which
with ``--seed`` makes it again: ``--only FORMAT:NUMBER``. A folder that is given again goes on where it stopped.

Writes ``benchmarks/records/fuzz.json`` (not with ``--no-record``); ends with 1 if anything fails.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_formats import FORMATS, mutate

from engine.errors import EngineError

HANG_S, START_S = 30.0, 180.0
ALLOWED_BYTES, ALLOWED_SHARE = 500_000_000, 4
ADDRESS_SPACE = 16 << 30  # beyond what the worker has when it starts: more is refused, and the machine stays usable


def main() -> int:
    """Run, print a line for each format, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--mutations", type=int, default=10_000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", default=",".join(FORMATS), help="by commas")
    parser.add_argument("--folder", type=Path, help="where seeds, outcomes and what fails are kept")
    parser.add_argument("--only", metavar="FORMAT:NUMBER", help="make this mutation, read it, and show what happens")
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # files are made and deleted many times a second
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory))
    names = arguments.formats.split(",")
    if arguments.worker:
        work(folder, names, arguments.mutations, arguments.seed)
        return 0
    for name in names:
        if not (folder / "seeds" / name).exists():
            (folder / "seeds" / name).mkdir(parents=True)
            FORMATS[name].write(folder / "seeds" / name)
    if arguments.only:
        name, _, number = arguments.only.partition(":")
        case = make_case(folder, name, int(number), arguments.seed)
        print(case, *sorted(path.relative_to(case) for path in case.rglob("*") if path.is_file()))
        print(FORMATS[name].read(case))
        return 0
    (folder / "outcomes").mkdir(exist_ok=True)
    started = time.perf_counter()
    watch(folder, names, arguments)
    rows = [count(folder, name) for name in names]
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    failures = sum(row["failures"] for row in rows)
    print(f"{failures} failures in {time.perf_counter() - started:.0f} s; {folder}")
    if not arguments.no_record:
        from recording import write_record

        settings = {"mutations": arguments.mutations, "seed": arguments.seed, "seconds_at_most": HANG_S,
                    "bytes_at_most": ALLOWED_BYTES, "share_of_file_at_most": ALLOWED_SHARE}  # fmt: skip
        write_record("fuzz", settings, rows)
    return 1 if failures else 0


def watch(folder: Path, names: list[str], arguments: argparse.Namespace) -> None:
    """Run workers until every mutation has an outcome; note those at which a worker died, or was stopped as it hung."""
    command = [sys.executable, __file__, "--worker", "--folder", str(folder), "--formats", ",".join(names),
               "--mutations", str(arguments.mutations), "--seed", str(arguments.seed)]  # fmt: skip
    while any(outcomes(folder, name) < arguments.mutations for name in names):
        with open(folder / "stderr.txt", "w") as stderr:
            worker = subprocess.Popen(command, stderr=stderr)
            last, allowed, since = sum(outcomes(folder, name) for name in names), START_S, time.monotonic()
            while worker.poll() is None:
                time.sleep(0.2)
                total = sum(outcomes(folder, name) for name in names)
                if total != last:
                    last, allowed, since = total, HANG_S, time.monotonic()
                elif time.monotonic() - since > allowed:
                    worker.kill()
                    worker.wait()
        if worker.returncode == 0:
            return
        name = next(name for name in names if outcomes(folder, name) < arguments.mutations)
        number, told = outcomes(folder, name), (folder / "stderr.txt").read_text()[-2000:]
        if not (folder / "outcomes" / name).exists():  # a worker opens it once the valid example is read
            raise SystemExit(f"{name}: the valid example cannot be read:\n{told}")
        kind = "hangs" if worker.returncode == -9 else f"ends the process ({worker.returncode})"
        note(folder, name, number, kind, told)
        with open(folder / "outcomes" / name, "a") as stream:
            stream.write("f")


def work(folder: Path, names: list[str], mutations: int, seed: int) -> None:
    """Read one mutation after the other, each outcome noted by a letter: r read, x refused, f failed."""
    base = status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (base + ADDRESS_SPACE, resource.RLIM_INFINITY))
    for name in names:
        FORMATS[name].read(folder / "seeds" / name)  # the valid file is read, and what is compiled is
        with open(folder / "outcomes" / name, "a", buffering=1) as stream:
            for number in range(outcomes(folder, name), mutations):
                case = make_case(folder, name, number, seed)
                num_bytes = sum(path.stat().st_size for path in _SEEDS["files"] if path.exists())
                stream.write(attempt(folder, name, number, case, num_bytes))
                stream.flush()


def attempt(folder: Path, name: str, number: int, case: Path, num_bytes: int) -> str:
    """Read a case; note what fails."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
    before, started = status("VmRSS"), time.monotonic()
    try:
        FORMATS[name].read(case)
        outcome = "r"
    except EngineError as error:
        outcome = "x"
        if not str(error).strip() or "Traceback" in str(error):
            note(folder, name, number, "says nothing", str(error))
            outcome = "f"
    except BaseException as error:
        note(folder, name, number, f"raises {type(error).__name__}", traceback.format_exc()[-3000:])
        outcome = "f"
    taken, seconds = status("VmHWM") - before, time.monotonic() - started
    if taken > ALLOWED_SHARE * num_bytes + ALLOWED_BYTES:
        note(folder, name, number, "takes memory", f"{taken:,} bytes for a file of {num_bytes:,}")
        outcome = "f"
    if seconds > HANG_S / 2:
        note(folder, name, number, "takes long", f"{seconds:.1f} s")
        outcome = "f"
    return outcome


def make_case(folder: Path, name: str, number: int, seed: int) -> Path:
    """The mutation of this number, in a folder that is used again."""
    case, whole = folder / "case", folder / "seeds" / name
    if _SEEDS.get("name") != name:
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(whole, case)
        files = sorted(path for path in whole.rglob("*") if path.is_file())
        _SEEDS.update(name=name, files={case / path.relative_to(whole): path.read_bytes() for path in files})
    for path, data in _SEEDS["files"].items():  # as they were before the last mutation
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
    mutate(name, list(_SEEDS["files"]), np.random.default_rng([seed, list(FORMATS).index(name), number]))
    return case


_SEEDS: dict[str, Any] = {}  # of the format at work


def note(folder: Path, name: str, number: int, kind: str, text: str) -> None:
    """Keep a case that failed, and what happened."""
    kept = folder / "failures" / f"{name}-{number}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder / "case", kept)
    with open(folder / "failures.jsonl", "a") as stream:
        stream.write(json.dumps({"format": name, "number": number, "kind": kind, "text": text}) + "\n")


def outcomes(folder: Path, name: str) -> int:
    """How many mutations of a format have an outcome."""
    try:
        return os.stat(folder / "outcomes" / name).st_size
    except FileNotFoundError:
        return 0


def count(folder: Path, name: str) -> dict[str, Any]:
    """What became of a format's mutations."""
    found = Counter((folder / "outcomes" / name).read_text())
    return {"format": name, "mutations": sum(found.values()), "read": found["r"], "refused": found["x"],
            "failures": found["f"]}  # fmt: skip


def status(field: str) -> int:
    """A size of this process in bytes, as the kernel knows it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


if __name__ == "__main__":
    raise SystemExit(main())
