"""Would the tests notice? ``python benchmarks/mutants.py``, about a quarter of an hour on one core.

Changes one important line at a time in a copy of the tree and runs the tests that should notice: ties, checksums,
atomic writes, leases, fingerprints, thresholds, escaping, checks of paths. The tests are run once unchanged first. A
mutant whose text is not there exactly once is stale: the list has to follow the code. Writes
``benchmarks/records/mutants.json``; ends with 1 if one survives or is stale.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutant_list import MUTANTS, Mutant
from recording import write_record

ROOT = Path(__file__).parents[1]
LEFT_OUT = (".git", ".venv", ".*_cache", "records", "shared", "build", "dist", "*.egg-info")
TIMEOUT_S = 600
# These compare the code with a record of it, and so would notice any change, whatever it does.
GUARDS = ("tests/unit/test_stage_versions.py",)
EVERY_TEST = ("tests/unit", "tests/contracts", "tests/properties", "tests/chaos")


@dataclass(frozen=True)
class Tests:
    """How a run of tests ended."""

    passed: bool
    seconds: float
    output: str


def main() -> int:
    """Run, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--first", type=int, default=0, help="begin with this one")
    parser.add_argument("--count", type=int, default=len(MUTANTS), help="how many to try")
    parser.add_argument("--only", default="", help="those whose name or file contains this")
    parser.add_argument("--all-tests", action="store_true", help="of survivors of their own tests, run all others too")
    arguments = parser.parse_args()
    chosen = [each for each in MUTANTS if arguments.only in each.name or arguments.only in each.file]
    chosen = chosen[arguments.first : arguments.first + arguments.count]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        unchanged = run_tests(tree, sorted({test for each in chosen for test in each.tests}))
        if not unchanged.passed:
            print(unchanged.output)
            raise SystemExit("the tests fail without any change")
        print(f"unchanged: passed in {unchanged.seconds:.0f} s", flush=True)
        for each in chosen:
            rows.append(try_mutant(each, tree, all_tests=arguments.all_tests))
            print(f"{rows[-1]['outcome']:<9}{rows[-1]['seconds']:>6.0f} s  {each.name}", flush=True)
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in ("killed", "survived", "stale")}
    print(counts)
    for row in rows:
        if row["outcome"] != "killed":
            print(f"{row['outcome']}: {row['name']} ({row['file']})")
    write_record("mutants", {"all_tests": arguments.all_tests, "tried": len(rows), **counts}, rows)
    return 1 if counts["survived"] or counts["stale"] else 0


def copy_tree(tree: Path) -> None:
    """Copy what tests need, with the times of the files, so that compiled kernels of unchanged ones are found."""
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))


def try_mutant(mutant: Mutant, tree: Path, *, all_tests: bool) -> dict[str, Any]:
    """Change the line, run the tests, put it back; a row of the record."""
    path = tree / mutant.file
    row = {"name": mutant.name, "file": mutant.file, "tests": list(mutant.tests), "seconds": 0.0}
    text = path.read_text() if path.exists() else ""
    if text.count(mutant.old) != 1:
        return {**row, "outcome": "stale", "by": f"the text is there {text.count(mutant.old)} times"}
    original = ROOT / mutant.file
    path.write_text(text.replace(mutant.old, mutant.new))
    forget_kernels(path, tree)
    try:
        ended = run_tests(tree, mutant.tests)
        if ended.passed and all_tests:
            ended = run_tests(tree, EVERY_TEST)
    finally:
        shutil.copy2(original, path)
        forget_kernels(path, tree)
    outcome = "survived" if ended.passed else "killed"
    failed = next((line for line in ended.output.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return {**row, "seconds": round(ended.seconds, 1), "outcome": outcome, "by": failed.partition(" - ")[0]}


def forget_kernels(path: Path, tree: Path) -> None:
    """Delete the compiled kernels of a module and of those that use it, which hold its code; and its bytecode."""
    wanted, found = [path], set()
    sources = {each: each.read_text() for each in (tree / "engine").rglob("*.py")}
    while wanted:
        module = wanted.pop()
        if module in found:
            continue
        found.add(module)
        name = ".".join(module.relative_to(tree).with_suffix("").parts)
        wanted += [each for each, text in sources.items() if f"from {name} import" in text and "njit" in text]
    for module in found:
        for kind in ("nbi", "nbc", "pyc"):
            for compiled in (module.parent / "__pycache__").glob(f"{module.stem}.*{kind}"):
                compiled.unlink()


def run_tests(tree: Path, tests: tuple[str, ...] | list[str]) -> Tests:
    """Run tests in the copy until one fails; one that takes too long counts as failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *tests]
    command += [part for guard in GUARDS for part in ("--ignore", guard)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    started = time.monotonic()
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Tests(False, time.monotonic() - started, "ERROR took too long")
    if done.returncode not in (0, 1, 2):  # 2: a test file could not be imported
        raise SystemExit(f"pytest ended with {done.returncode}: {done.stdout}{done.stderr}")
    return Tests(done.returncode == 0, time.monotonic() - started, done.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
