"""The code that each step runs, as a hash: ``python -m tests.support.stage_code`` records it.

A step's fingerprint holds a version number, which a person keeps. ``tests/unit/test_stage_versions.py`` compares the
hash of the step's code with the recorded one, so that a change without a new version is seen. Where a change alters no
result, the hash is recorded anew in the same commit.

The hash covers the syntax tree of the step's class and of every definition in ``engine`` that it reaches by name:
functions, classes and constants, and the companions it names as strings. Comments, docstrings, annotations of functions
and what a step is projected to cost do not count. What only moves bytes (storage, executors) or declares settings,
which are in fingerprints themselves, is left out.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.support import ROOT
from tests.support.all_plans import all_stages

RECORD = Path(__file__).with_suffix(".json")
LEFT_OUT = (
    "engine.errors", "engine.executors", "engine.process.masking", "engine.process.memory",
    "engine.runs", "engine.sections", "engine.stages", "engine.storage.arrays", "engine.storage.companions",
    "engine.storage.context", "engine.storage.manifest", "engine.storage.owned", "engine.storage.paths",
    "engine.storage.cache", "engine.storage.places", "engine.storage.remote", "engine.storage.tables", "engine.version",
)  # fmt: skip
NOT_RESULTS = ("cost", "kind_cost", "fitting_cost")  # methods of steps
_NAMED = re.compile(r"(engine(?:\.\w+)+):(\w+)")
Definition = tuple[str, str]  # a module and a name in it


class Module:
    """A module's definitions by name, and the names that it imports from ``engine``."""

    def __init__(self, name: str) -> None:
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, Definition] = {}
        tree = ast.parse(source_text(name))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "engine":
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = (node.module or "", alias.name)
        for statement in tree.body:
            for defined in _defines(statement):
                self.definitions[defined] = statement


def code_hash(function: str) -> str:
    """Hash what ``"module:name"`` reaches: 16 hex digits, the same for every version of Python from 3.11.

    The modules' names do not count, so that code may move.
    """
    module, _, name = function.partition(":")
    reached = reach((module, name))
    assert reached, f"{function}: no such definition"
    hasher = hashlib.blake2b(digest_size=8)
    for text in sorted(_text(*definition) for definition in reached):
        hasher.update(text.encode())
    return hasher.hexdigest()


def reach(start: Definition) -> set[Definition]:
    """All definitions that one names, directly or through others."""
    seen: set[Definition] = set()
    waiting = [start]
    while waiting:
        found = _resolve(*waiting.pop())
        if found is None or found in seen:
            continue
        seen.add(found)
        waiting.extend(_named(*found))
    return seen


def source_text(module: str) -> str:
    """The source of a module of the engine."""
    path = ROOT / Path(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


@cache
def _module(name: str) -> Module:
    return Module(name)


@cache
def _text(module: str, name: str) -> str:
    return json.dumps([name, _shape(_module(module).definitions[name])])


def _is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _resolve(module: str, name: str) -> Definition | None:
    """Where a name that ``module`` sees is defined; ``None`` outside of what counts."""
    if module.startswith(LEFT_OUT) or module.endswith(".settings") or not _is_module(module):
        return None
    known = _module(module)
    if name in known.definitions:
        return module, name
    if name in known.imports:
        return _resolve(*known.imports[name])
    return None


@cache
def _named(module: str, name: str) -> list[Definition]:
    return list(_names(module, name))


def _names(module: str, name: str) -> Iterator[Definition]:
    known = _module(module)
    for node in _walk(known.definitions[name]):
        if isinstance(node, ast.Name):
            yield module, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            origin = known.imports.get(node.value.id)
            if origin is not None:
                yield ".".join(origin), node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for match in _NAMED.finditer(node.value):
                yield match.group(1), match.group(2)
        elif isinstance(node, ast.JoinedStr):  # f"{_HERE}:Helper"
            text = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
            if re.fullmatch(r":\w+", text):
                yield module, text[1:]


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but for those of methods that can change no result."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.ClassDef) and getattr(child, "name", "") in NOT_RESULTS):
            yield from _walk(child)


def _defines(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = {ast.Assign: lambda s: s.targets, ast.AnnAssign: lambda s: [s.target]}.get(type(statement))
    if targets is None:
        return []
    return [node.id for target in targets(statement) for node in ast.walk(target) if isinstance(node, ast.Name)]


def _shape(node: Any) -> Any:
    """A syntax tree as lists, without positions, docstrings and annotations of functions."""
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    left_out = {"returns", "annotation"} if isinstance(node, ast.FunctionDef | ast.arg) else set()
    fields = {name: value for name, value in ast.iter_fields(node) if name not in left_out}
    if isinstance(node, ast.ClassDef):
        fields["body"] = [each for each in node.body if getattr(each, "name", "") not in NOT_RESULTS]
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([name, _shape(value)] for name, value in fields.items() if value not in (None, []))]


def forget() -> None:
    """Read the sources anew at the next call."""
    for known in (_module, _text, _named):
        known.cache_clear()


def found_code(folder: Path) -> dict[str, dict[str, Any]]:
    """The version and the code's hash of each kind of step; ``folder`` is for small files."""
    classes = {stage.kind: type(stage.step) for stage in all_stages(folder)}
    return {
        kind: {"version": made.version, "code": code_hash(f"{made.__module__}:{made.__qualname__}")}
        for kind, made in sorted(classes.items())
    }


def main() -> None:
    """Write the record: a line for each kind."""
    with tempfile.TemporaryDirectory() as folder:
        found = found_code(Path(folder))
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(found)} kinds of steps: {RECORD}")


if __name__ == "__main__":
    main()
