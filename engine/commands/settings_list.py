"""All settings, as people and programs ask for them: names, defaults, what they mean, and which methods read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.commands.configuration import ALL_SETTINGS
from engine.commands.resources import Resources
from engine.errors import ConfigError
from engine.methods.registry import METHODS, PRESETS


@dataclass(frozen=True)
class SettingRow:
    """A setting: its dotted name, default, kind of values, meaning with units, and the methods that read it.

    ``read_by``: "every method" if a run or training of each reads it; "resources" for what no result hangs on.
    """

    name: str
    default: Any
    kind: str
    meaning: str
    read_by: str


def list_settings(method: str | None = None) -> list[SettingRow]:
    """List the settings by section; of ``method``, those alone that a run or a training of it reads.

    Raises ``ConfigError`` for an unknown method.
    """
    if method is not None and method not in METHODS:
        raise ConfigError(f"--method {method}: expected one of {', '.join(METHODS)}")
    rows = []
    for name, kind, field in _fields(ALL_SETTINGS):
        readers = [each for each in METHODS if METHODS[each].reads(name, training=True)]
        if method is not None and method not in readers:
            continue
        read_by = "every method" if len(readers) == len(METHODS) else ", ".join(readers)
        rows.append(SettingRow(name, _plain(field), kind, field.description or "", read_by))
    for name, kind, field in _fields(Resources, "resources."):
        rows.append(SettingRow(name, _plain(field), kind, field.description or "", "resources"))
    return rows


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file: settings, and the sections ``resources`` and ``preset``."""
    schema = ALL_SETTINGS.model_json_schema()
    resources = Resources.model_json_schema()
    schema.setdefault("$defs", {}).update(resources.pop("$defs", {}))
    schema["properties"] |= {"resources": resources, "preset": {"type": "string", "examples": sorted(PRESETS)}}
    schema["$schema"], schema["title"] = "https://json-schema.org/draft/2020-12/schema", "Configuration of asterism"
    return schema


def _fields(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, FieldInfo]]:
    """List the fields of a model as dotted names, with words for the values that each takes."""
    found = []
    properties: Mapping[str, Any] = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += _fields(kind, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", _word(properties[name]), field))
    return found


def _word(tree: Mapping[str, Any]) -> str:
    """Word the values that a part of a schema allows."""
    if "enum" in tree or "const" in tree:
        return " | ".join(map(str, tree.get("enum", [tree.get("const")])))
    if "anyOf" in tree:
        return " | ".join(_word(each) for each in tree["anyOf"])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    words = [f"{sign} {tree[name]:g}" for name, sign in bounds.items() if name in tree and abs(tree[name]) < 2**62]
    return " ".join([str(tree.get("type", "value")).replace("null", "none"), *words])


def _plain(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)
    return list(default) if isinstance(default, tuple) else default
