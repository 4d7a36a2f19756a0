"""The pages for people name only files, headings and modules that exist."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "engine/methods/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?<![\w/.-])(?:engine|tests|benchmarks|docs|jobs|cluster_configs|\.ci)/[\w./-]*[\w/]")
_EXAMPLE = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MODULE = re.compile(r"(?<![\w/.])engine(?:\.[a-z_]+)+")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_paths_and_modules_exist(page: Path) -> None:
    shown = {name for name, _ in _EXAMPLE.findall(page.read_text())}
    text = _EXAMPLE.sub("", page.read_text())
    dead = [link for link in _LINK.findall(text) if "://" not in link and not _leads_somewhere(page, link)]
    dead += [path for path in _PATH.findall(text) if path not in shown and not (ROOT / path).exists()]
    dead += [name for name in _MODULE.findall(text) if not _is_module(name)]
    assert not dead


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in _anchors(target))


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = path.parent.with_suffix(".py")
    source = module if module.is_file() else path.parent / "__init__.py"
    return source.is_file() and re.search(rf"\b{path.name}\b", source.read_text()) is not None


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text()
    for page in (ROOT / "docs/decisions").glob("[0-9]*.md"):
        assert f"| {int(page.name[:4])} | [" in index
        assert f"({page.name})" in index
        headings = re.findall(r"^\*\*(\w+)\.\*\*", page.read_text(), re.MULTILINE)
        assert headings == ["Context", "Evidence", "Decision", "Consequences"], page.name


CONFTEST = """
import pkgutil, sys
from pathlib import Path

import engine
import tests.support

for package in Path(__file__).parent.rglob("engine/**/"):
    name = ".".join(package.relative_to(Path(__file__).parent).parts)
    pkgutil.resolve_name(name).__path__.append(str(package))
"""


@pytest.mark.slow
def test_examples_of_adding_work(tmp_path: Path) -> None:
    """Write the modules and tests that the page shows beside the engine's own, and run the tests."""
    examples = _EXAMPLE.findall((ROOT / "docs/develop/adding.md").read_text())
    assert len(examples) >= 6
    for name, code in examples:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(examples) // 2} passed" in done.stdout


def test_tables_of_results_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails: python benchmarks/results_pages.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pages = importlib.import_module("results_pages").pages()
    ours = [name for name, module in sys.modules.items() if "benchmarks" in str(getattr(module, "__file__", ""))]
    for name in ours:  # benchmarks/datasets.py has a package's name
        del sys.modules[name]
    held = {name: (ROOT / "docs" / name).read_text("utf-8") for name in pages}
    assert held == pages
