"""YAML that users give: plain data, read with bounds on its size, depth and aliases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from engine.errors import ConfigError
from engine.storage.paths import check_file, explain_reading, lies_there

SHOWN = 200  # characters of a wrong value that a message shows
_MOST_BYTES, _MOST_DEPTH, _MOST_VALUES = 1 << 17, 16, 10_000
_KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def read_yaml(path: Path, what: str = "configuration") -> dict[str, Any]:
    """Read the mapping of a YAML file; an empty file gives an empty one.

    ``what`` names the expected file in the error for a missing one. Raises ``ConfigError``, or ``DataError`` for a
    place that cannot be read.
    """
    if not lies_there(path):
        raise ConfigError(f"{path}: no such {what}")
    if check_file(path).stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{path}: is longer than {_MOST_BYTES:,} bytes; expected a few lines of settings")
    with explain_reading(path):
        held = path.read_bytes()
    try:
        tree = parse_yaml(held.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8; byte {error.start} is none") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got a {type(tree).__name__}")
    return tree


def parse_yaml(text: str, where: str) -> Any:
    """Return the plain data of a YAML text. Raises ``ConfigError`` that begins with ``where``."""
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # a value that does not fit its tag makes PyYAML raise nearly anything
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = getattr(error, "problem", None) or f"{type(error).__name__}: {error}"
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}: not valid YAML{line}: {reason[:SHOWN]}") from None


class _Loader(yaml.SafeLoader):
    """A loader of plain data of bounded depth and size, whose keys are texts and occur once."""

    depth = 0

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        values, unseen = 1, [node]
        while unseen:  # an alias counts each time, because the settings repeat its values
            inner = _inner(unseen.pop())
            unseen += inner
            values += len(inner)
            if values > _MOST_VALUES:
                raise yaml.MarkedYAMLError(problem=f"more than {_MOST_VALUES:,} values, with those that aliases repeat")
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_MOST_DEPTH}", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEY_TAGS:
                raise yaml.MarkedYAMLError(problem="expected the name of a setting", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _numbers_are_decimal() -> None:
    """Read ``0x10``, ``1:30`` and ``1_000`` as texts, like YAML 1.2, and ``1e9`` as a number."""
    kept = {
        first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("int", "float")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _Loader.yaml_implicit_resolvers = kept
    _Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
    _Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?((\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"),
        list("-+0123456789."),
    )


_numbers_are_decimal()


def _inner(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
