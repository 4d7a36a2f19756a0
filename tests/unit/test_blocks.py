"""Every block of the README and of the pages for users and operators runs, in the order of its page.

A page has a folder of its own, which holds small data under the names that pages use. The page on where vectors live
has one for each of its sections. A block ``text`` after one that ran is its output, if the page's data are real.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest

from engine.cli.app import main
from engine.storage.decisions import Decision, append_decisions
from tests.support import ROOT

MOST_LINES = 150
SECTIONS = "docs/use/where_vectors_live.md"
PAGES = [
    "README.md",
    *sorted(
        f"docs/{path.relative_to(ROOT / 'docs')}"
        for part in ("use", "operate")
        for path in ROOT.glob(f"docs/{part}/*.md")
    ),
]
# What is not run here: how its command begins, or words that its block holds; and why.
COMMANDS_ELSEWHERE = {
    "make": "the Makefile runs these tests, and the demo is a job",
    "pip install": "benchmarks/installs.py installs the wheel",
    "asterism review": "serves until it is stopped; tests/unit/review has it",
}
BLOCKS_ELSEWHERE = {
    "ray start": "starts a Ray cluster; the tests of jobs have one",
    "docker build": "needs Docker and machines for rent; the configurations have tests",
    "kubectl apply": "needs Kubernetes; the configuration has tests",
    "from insightface": "needs the weights of a network",
    "SentenceTransformer": "needs the weights of a network",
}
REAL = ("docs/use/records.md", "docs/use/pictures.md")  # their data come with a package, so outputs are compared
LEFT = {
    "README.md": ("run", "labels.csv", "clusters.parquet", "model", "page.html", "from-python"),
    SECTIONS: ("people-labelled.parquet", "labels.parquet", "people-labelled", "people-labels.lance", "fetched-run"),
}
_BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def units() -> list[tuple[str, str]]:
    """List pages, and the sections of the page whose sections stand by themselves, with their blocks."""
    found = [(name, (ROOT / name).read_text()) for name in PAGES if name != SECTIONS]
    for section in (ROOT / SECTIONS).read_text().split("\n## ")[1:]:
        found.append((f"{SECTIONS}#{section.partition(chr(10))[0]}", section))
    return [(name, text) for name, text in found if _BLOCK.search(text)]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


def test_every_reason_is_of_a_block() -> None:
    blocks = [code for _, text in units() for _, code in _BLOCK.findall(text)]
    assert all(any(words in code for code in blocks) for words in (*COMMANDS_ELSEWHERE, *BLOCKS_ELSEWHERE))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text"), [pytest.param(*unit, id=unit[0]) for unit in units()])
def test_every_block_runs(
    name: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    blocks = [block for block in _BLOCK.findall(text) if not any(words in block[1] for words in BLOCKS_ELSEWHERE)]
    for language, code in blocks:
        for module in sorted(imported(code)) if language == "python" else ():
            pytest.importorskip(module, reason=f"needs {module}")
    known = lay_out(tmp_path, text)
    if "psycopg" in text:
        request.getfixturevalue("postgres")
        fill_database(known["vectors"])
    monkeypatch.chdir(tmp_path)
    for language, code in blocks:
        if language != "text":
            capsys.readouterr()
            run(language, code, monkeypatch, known)
        elif name in REAL:
            assert shows(capsys.readouterr().out, code)
    left = {path.name for path in tmp_path.iterdir()}
    if name in LEFT:
        assert left >= set(LEFT[name])
    elif name.startswith(SECTIONS) and any(language != "text" for language, _ in blocks):
        assert left & set(LEFT[SECTIONS])


def run(language: str, code: str, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any]) -> None:
    """Run a block; Python's names stay ``known`` to the next one."""
    if language == "python":
        exec(compile(code, "block", "exec"), known)
        return
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or any(f"{shlex.join(words)} ".startswith(f"{each} ") for each in COMMANDS_ELSEWHERE):
            continue
        if words[0] == "python":
            words = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words]
            subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
            continue
        assert words[0] == "asterism", line
        monkeypatch.setattr(sys, "argv", words)
        main()


def imported(code: str) -> set[str]:
    """Return the packages that a block imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names} - {"engine"}


def shows(output: str, shown: str) -> bool:
    """Tell whether the lines shown are lines of the output in this order, numbers within a twentieth.

    Three dots stand for lines left out, or for the rest of a line.
    """
    lines, place = output.splitlines(), 0
    for wanted in shown.splitlines():
        begins, _, rest = wanted.partition(" ...")
        if wanted == "..." or (rest and not begins):
            continue
        while place < len(lines) and not _alike(lines[place], begins, whole=begins == wanted):
            place += 1
        if place == len(lines):
            return False
        place += 1
    return True


def _alike(line: str, wanted: str, *, whole: bool) -> bool:
    line = line.rstrip() if whole else line[: len(wanted)]
    if _NUMBER.sub("", line) != _NUMBER.sub("", wanted):
        return False
    pairs = zip(
        *([float(each.replace(",", "")) for each in _NUMBER.findall(text)] for text in (line, wanted)), strict=True
    )
    return all(abs(a - b) <= 0.05 * abs(b) for a, b in pairs)


def lay_out(folder: Path, text: str) -> dict[str, Any]:
    """Write what the page's blocks read, unless they make it; returns the names that Python blocks know."""
    people = np.random.default_rng(0).permutation(np.repeat(np.arange(24), 8))
    centres, noise = (np.random.default_rng(seed).standard_normal((len(people), 16)) for seed in (1, 2))
    vectors, others = (
        (centres[people] + 0.2 * noise).astype(np.float32),
        (centres[people + 24] + 0.2 * noise).astype(np.float32),
    )
    for name in ("vectors", "faces", "train", "day1", "offers"):
        np.save(folder / f"{name}.npy", vectors)
    for name in ("others", "day2", "query"):
        np.save(folder / f"{name}.npy", others[:96])
    np.save(folder / "labels.npy", people)
    np.save(folder / "others_labels.npy", people[:96] + 24)
    (folder / "gone.txt").write_text("3\n5\n")
    append_decisions(folder / "decisions.parquet", [Decision("same", "1", "2"), Decision("different", "3", "4")])
    names = [f"name {person}" for person in people]
    table = {"embedding": list(vectors), "name": names, "text": names, "city": names}
    for name in ("people", "cities"):
        pd.DataFrame(table).to_parquet(folder / f"{name}.parquet")
    pd.DataFrame({"title": names, "product": people}).to_csv(folder / "offers.csv", index=False)
    (folder / "faces").mkdir()
    np.save(folder / "faces/vectors.npy", vectors)
    if "people-dataset" in text:
        pytest.importorskip("datasets").Dataset.from_dict(table).save_to_disk(folder / "people-dataset")
    if "people.lance" in text:
        pytest.importorskip("lance").write_dataset(pa.table(table), folder / "people.lance")
    return {"vectors": vectors, "more_vectors": others, "identities": people}


def fill_database(vectors: npt.NDArray[np.float32]) -> None:
    """Make the table ``people`` in the tests' PostgreSQL, of pgvector's vectors if it has the extension."""
    import psycopg

    with psycopg.connect() as database:
        has = database.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchall()
        if has:
            database.execute("CREATE EXTENSION IF NOT EXISTS vector")
        database.execute(f"CREATE TABLE people (id bigint, embedding {'vector' if has else 'real[]'}, name text)")
        for number, vector in enumerate(vectors.tolist()):
            given = [number, str(vector) if has else vector, f"name {number}"]
            database.execute("INSERT INTO people VALUES (%s, %s, %s)", given)
