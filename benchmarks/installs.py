"""The wheel in an empty environment of each Python: seconds, sizes, and the first commands outside the checkout.

    python benchmarks/installs.py [--pythons python3.11,/opt/3.13/bin/python3] [--torch torch==2.13.0] [--work FOLDER]

Builds the wheel, and for each interpreter makes a virtual environment, installs ``WHEEL[cpu]`` from the package index
into it, and runs ``asterism`` on vectors that it makes, in a folder and with a home that hold nothing else. ``--torch``
is installed first, because the index's default is a build for CUDA of 3 GB. An interpreter that this machine lacks is a
row that says so. Rows of ``benchmarks/records/installs.json`` are replaced by version. The exit code is 1 if a step
failed, which makes it fit for CI.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import record_row

ROOT = Path(__file__).parents[1]
PYTHONS = "python3.11,python3.12,python3.13,python3.14"
VECTORS = """
import numpy as np
rng = np.random.default_rng(0)
people = np.repeat(np.arange(40), 8)
x = rng.standard_normal((40, 64))[people] + 0.4 * rng.standard_normal((320, 64))
np.save("x.npy", x.astype(np.float32)); np.save("y.npy", people)
"""
STEPS = {
    "version": ("asterism", "--version"),
    "help": ("asterism", "--help"),
    "import": ("python", "-c", "import engine"),
    "doctor": ("asterism", "doctor"),
    "vectors": ("python", "-c", VECTORS),
    "run": ("asterism", "run", "--features", "x.npy", "--labels", "y.npy", "--out", "run", "--quiet"),
    "run again": ("asterism", "run", "--features", "x.npy", "--labels", "y.npy", "--out", "run", "--quiet"),
    "export": ("asterism", "export", "run", "--out", "labels.csv"),
    "train": ("asterism", "train", "--features", "x.npy", "--labels", "y.npy", "--method", "cdp", "--out", "model"),
    "with the model": ("asterism", "run", "--features", "x.npy", "--model", "model", "--out", "with-model", "--quiet"),
}  # fmt: skip


class Failed(Exception):
    """A step ended with an error."""


def timed(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Run a command in ``folder``; returns its seconds, its processor seconds and its output. Raises ``Failed``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NUMBA", "VIRTUAL"))}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env={**kept, "HOME": str(folder)}, capture_output=True, text=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Failed(f"{' '.join(command[1:4])} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(seconds, 2), round(spent, 2), done.stdout


def bytes_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def try_python(python: str, wheel: Path, torch: str, work: Path) -> dict[str, Any]:
    """Install the wheel for one interpreter and run every step; returns the row."""
    command = shutil.which(python)
    if command is None or subprocess.run([command, "--version"], capture_output=True).returncode:
        return {"python": Path(python).name, "missing": "this machine has no such interpreter"}
    version = timed([command, "-c", "import platform; print(platform.python_version())"], work)[2].strip()
    environment, folder = work / f"venv-{version}", work / f"home-{version}"
    folder.mkdir()
    row: dict[str, Any] = {"python": version, "torch": torch or "as the index gives", "steps": {}}
    try:
        timed([command, "-m", "venv", str(environment)], folder)
        pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install_s = timed([*pip, torch], folder)[0] if torch else 0.0
        row["install_s"] = round(install_s + timed([*pip, f"{wheel}[cpu]"], folder)[0], 1)
        site = next(environment.glob("lib/python*/site-packages"))
        row["installed_bytes"] = bytes_of(environment)
        row["torch_and_cuda_bytes"] = sum(
            bytes_of(each) for name in ("torch", "nvidia*", "triton*") for each in site.glob(name)
        )
        for name, (program, *words) in STEPS.items():
            seconds, spent, _ = timed([str(environment / "bin" / program), *words], folder)
            row["steps"][name] = {"seconds": seconds, "processor_s": spent}
        if not (folder / "run/report.html").is_file() or len((folder / "labels.csv").read_text().splitlines()) != 321:
            raise Failed("the run left no report, or the export not one line for each row")
    except Failed as error:
        row["failed"] = str(error)
    shutil.rmtree(environment, ignore_errors=True)
    return row


def main() -> int:
    """Build, try every interpreter, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--pythons", default=PYTHONS, help="names or paths of interpreters, by commas")
    parser.add_argument("--torch", default="", help="requirement of torch that is installed first")
    parser.add_argument("--work", type=Path, help="folder for the environments; default: a temporary one")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="installs-", dir=arguments.work) as folder:
        work = Path(folder)
        source = work / "source"  # a build leaves folders in the tree
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "demo-output", "*.egg-info"))
        timed([sys.executable, "-m", "build", "--wheel", "--outdir", str(work), str(source)], work)
        (wheel,) = work.glob("*.whl")
        for python in arguments.pythons.split(","):
            row = {**try_python(python, wheel, arguments.torch, work), "wheel_bytes": wheel.stat().st_size}
            said = row.get("missing") or row.get("failed") or f"installed in {row['install_s']} s, every step ran"
            print(f"{row['python']}: {said}", flush=True)
            failed |= "failed" in row
            record_row(
                "installs",
                {},
                row,
                ("python",),
                lambda each: [int(n) for n in each["python"].split(".") if n.isdigit()],
            )
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
