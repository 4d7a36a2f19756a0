"""Blocks of the README, in one folder in the order of the page, and of the page on where vectors live."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.cli.app import main
from tests.support import ROOT

MOST_LINES = 150
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ELSEWHERE = ("make", "pip")  # the Makefile and the installation have tests of their own


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0)
    for name, labels in (("vectors", "labels"), ("others", "others_labels")):
        identities = drawn.permutation(np.repeat(np.arange(30), 8))
        centres = drawn.standard_normal((30, 16))
        vectors = centres[identities] + 0.2 * drawn.standard_normal((len(identities), 16))
        np.save(tmp_path / f"{name}.npy", vectors.astype(np.float32))
        np.save(tmp_path / f"{labels}.npy", identities)
    monkeypatch.chdir(tmp_path)
    ran = sum(run(*block, monkeypatch) for block in _BLOCK.findall((ROOT / "README.md").read_text()))
    assert ran >= 10
    assert {"run", "labels.csv", "clusters.parquet", "model", "page.html", "from-python"} <= {
        path.name for path in tmp_path.iterdir()
    }


def run(language: str, code: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a block; returns how many commands it has."""
    if language == "python":
        exec(compile(code, "block", "exec"), {})
        return 1
    ran = 0
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] in _ELSEWHERE:
            continue
        assert words[0] == "asterism", line
        monkeypatch.setattr(sys, "argv", words)
        main()
        ran += 1
    return ran


BLOCKS = {
    "a data frame": "pandas", "Parquet with pictures or texts": "pandas", "Hugging Face datasets": "datasets",
    "Lance, LanceDB": "lance",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("heading", BLOCKS)
def test_vectors_come_from_where_they_live(tmp_path: Path, heading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip(BLOCKS[heading], reason=f"needs {BLOCKS[heading]}")
    people = np.repeat(np.arange(12), 5)
    drawn = np.random.default_rng(0)
    vectors = (drawn.standard_normal((12, 16))[people] + 0.2 * drawn.standard_normal((60, 16))).astype(np.float32)
    table = {"embedding": list(vectors), "name": [f"person {person}" for person in people]}
    monkeypatch.chdir(tmp_path)
    if library.__name__ == "pandas":
        library.DataFrame(table).to_parquet("people.parquet")
    elif library.__name__ == "datasets":
        library.Dataset.from_dict(table).save_to_disk("people-dataset")
    else:
        library.write_dataset(pa.table(table), "people.lance")
    section = (ROOT / "docs/use/where_vectors_live.md").read_text().split(f"## {heading}\n")[1].partition("\n## ")[0]
    (block,) = _BLOCK.findall(section)
    assert run(*block, monkeypatch)
    left = {"people-labelled.parquet", "labels.parquet", "people-labelled", "people-labels.lance"}
    assert left & {path.name for path in tmp_path.iterdir()}
