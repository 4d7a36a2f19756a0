"""Settings as users write them: presets, YAML files, ``--set a.b=c`` and Python's keywords.

Unknown names are errors. What cannot change a result (threads, memory, device) is in ``engine.commands.resources``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, create_model

from engine.errors import ConfigError
from engine.methods.registry import METHODS, PRESETS, SECTIONS
from engine.settings import Settings
from engine.storage.yaml_files import SHOWN, parse_yaml, read_yaml

_FIELDS: dict[str, Any] = {
    "method": (Literal.__getitem__(("auto", *METHODS)), Settings.model_fields["method"]),
    **{name: (section, section()) for name, section in SECTIONS.items()},
}
ALL_SETTINGS = create_model("Settings", __base__=Settings, **_FIELDS)  # with the sections of all methods


def load_settings(
    config: str | Path | None = None, overrides: list[str] | dict[str, Any] | None = None, **top: Any
) -> Settings:
    """Build settings from a preset name or YAML file, then overrides, then top-level values that are not ``None``.

    ``overrides``: ``["knn.k=40", ...]`` (values parsed as YAML) or ``{"knn.k": 40, "knn": {"k": 40}}``.
    A section ``resources`` of the file is for ``engine.commands.resources.load_resources``.
    Raises ``ConfigError`` naming the unknown or malformed setting.
    """
    tree = read_config(config)
    tree.pop("resources", None)
    pairs = overrides.items() if isinstance(overrides, dict) else parse_overrides(overrides).items()
    named = [*pairs, *((name, value) for name, value in top.items() if value is not None)]
    for name, value in named:
        _assign(tree, name, value)
    settings = read_settings(tree)
    settings._named = frozenset(leaf for name, value in named for leaf in _leaves(str(name), value))
    return settings


def read_settings(tree: Mapping[str, Any]) -> Settings:
    """Settings of a mapping by section; raises ``ConfigError`` naming the unknown or malformed one."""
    try:
        return ALL_SETTINGS.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(word_errors(error, ALL_SETTINGS)) from None


def parse_overrides(overrides: list[str] | None) -> dict[str, Any]:
    """Read ``["knn.k=40", ...]`` into names and values, which are YAML; the last of a name counts."""
    return dict(_split_override(text) for text in overrides or [])


def read_config(config: str | Path | None, named_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a preset or file, over those of the preset it names; ``named_by``: the files that led here."""
    if config is None:
        return {}
    if str(config) in PRESETS:
        return json.loads(json.dumps(PRESETS[str(config)]))
    path = Path(config)
    if path.absolute() in named_by:
        raise ConfigError(f"{path}: its preset leads back to itself, by way of {len(named_by)} file(s)")
    tree = read_yaml(path, f"configuration, nor one of {', '.join(sorted(PRESETS))}")
    preset = tree.pop("preset", None)
    if not isinstance(preset, str | None):
        raise ConfigError(f"{path}: preset: expected a name or a file, got {str(preset)[:SHOWN]}")
    base = read_config(preset, (*named_by, path.absolute()))
    for name, value in tree.items():
        _assign(base, name, value)
    return base


def _split_override(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set takes name=value, for example knn.k=40; got {text!r}")
    return name.strip(), parse_yaml(value, f"--set {name}: {value[:SHOWN]!r}")


def _assign(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = str(name).split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"setting {name}: {parent} is a value, not a section")
    if isinstance(value, dict) and isinstance(tree.get(leaf), dict):
        for key, item in value.items():
            _assign(tree[leaf], key, item)
    else:
        tree[leaf] = value


def _leaves(name: str, value: Any) -> list[str]:
    """The dotted names of the settings that a name and its value give: several for a section."""
    if not isinstance(value, dict):
        return [name]
    return [leaf for key, item in value.items() for leaf in _leaves(f"{name}.{key}", item)]


def word_errors(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name}; known here: {', '.join(_known(item['loc'], model))}")
        else:
            lines.append(
                f"setting {name}: {item['msg'].removeprefix('Value error, ')}, got {repr(item['input'])[:SHOWN]}"
            )
    return "; ".join(lines)


def _known(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return sorted(model.model_fields)
