"""Every block of the README runs as it stands, in one folder, in the order of the page."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
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
    ran = 0
    for language, code in _BLOCK.findall((ROOT / "README.md").read_text()):
        if language == "python":
            exec(compile(code, "README.md", "exec"), {})
            ran += 1
            continue
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[0] in _ELSEWHERE:
                continue
            assert words[0] == "asterism", line
            monkeypatch.setattr(sys, "argv", words)
            main()
            ran += 1
    assert ran >= 10
    assert {"run", "labels.csv", "clusters.parquet", "model", "page.html", "from-python"} <= {
        path.name for path in tmp_path.iterdir()
    }
