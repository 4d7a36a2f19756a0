"""The wheel builds, installs, and holds what the engine needs at run time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from engine.version import __version__
from tests.support import ROOT


@pytest.mark.slow
def test_a_wheel_builds_installs_and_runs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "engine", source / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("jobs", "cluster_configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("asterism_clustering-*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    for name in ("py.typed", "report/report.css", "report/report.js", "review/review.html"):
        assert (site / "engine" / name).is_file()
    for name in ("jobs/cluster.py", "cluster_configs/laptop.yaml"):
        assert (site / "share" / "asterism" / name).is_file()
    program = "import engine, engine.report.page; print(engine.__file__, engine.__version__)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert str(site) in done.stdout


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
    assert citation["cff-version"] == "1.2.0"


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    """Each range's lower bound is a pin of the constraints that ``make test-lowest`` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [
        *project["dependencies"],
        *(each for name in ("cpu", "s3", "ray", "baselines", "sklearn", "review") for each in extras[name]),
    ]
    bounds = [re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\d.]+).*", each) for each in named]
    lowest = dict(bound.groups() for bound in bounds if bound)
    assert len(lowest) == len({each.partition(">=")[0] for each in named})
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    differing = {name for name, bound in lowest.items() if Version(pinned[name]) != Version(bound)}
    assert not differing
