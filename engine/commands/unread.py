"""Settings that were given by name and that nothing reads: refused, with what would read them.

Who reads a setting is told by the plan alone: what the flow reads while it makes the steps. So a partition, a search
for neighbours or a method that comes to read a setting, or no longer does, needs no list here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from engine.commands.request import Kind
from engine.errors import ConfigError, EngineError
from engine.methods.registry import METHODS
from engine.sections import Section, recorded_reads
from engine.settings import Settings

Build = Callable[[Settings], Any]  # makes a plan's stages


def refuse_unread(kind: Kind, settings: Settings, build: Build, *, other_methods: bool) -> None:
    """Refuse settings given by name that nothing reads; raises ``ConfigError`` that says what would read them.

    ``build`` makes the stages that settings mean. ``other_methods``: whether another method could do the work.
    """
    named = sorted(name for name in settings.named if "." in name)  # a method and a seed are of all work
    if not named:
        return
    read = _reads(build, settings)
    unread = [name for name in named if name not in read]
    if not unread:
        return
    method = METHODS[settings.method]
    what = {"run": f"a run of {method.name}", "training": f"training of {method.name}", "store": "ingestion"}[kind]
    own = kind == "run" and method.clusters_itself and any(name.startswith("partition.") for name in unread)
    why = ", as it clusters by itself" if own else ""
    ways = "; ".join(
        f"{name} would be read with {' or '.join(found)}"
        for name in unread
        if (found := _ways_to_read(name, settings, build, other_methods))
    )
    names = ", ".join(unread)
    raise ConfigError(f"{names}: {what} reads no such settings{why}; leave out {names}{f' ({ways})' if ways else ''}")


def _reads(build: Build, settings: Settings) -> set[str]:
    with recorded_reads(value for _, value in settings if isinstance(value, Section)) as read:
        METHODS[settings.method].committee(settings)
        build(settings)
    return read


def _ways_to_read(name: str, settings: Settings, build: Build, other_methods: bool) -> list[str]:
    """The choices, of the setting's section or else of a method, that would each alone have the setting read."""
    section = name.partition(".")[0]
    own: Section = getattr(settings, section)
    found = []
    for field, info in type(own).model_fields.items():
        for value in _choices(info.annotation):
            changed = settings.with_section(own.model_copy(update={field: value}))
            if value != getattr(own, field) and _would_read(name, changed, build):
                found.append(f"{section}.{field}={value}")
    for method in METHODS if other_methods and not found else ():
        if _would_read(name, settings.model_copy(update={"method": method}), build):
            found.append(f"method={method}")
    return found


def _would_read(name: str, settings: Settings, build: Build) -> bool:
    try:
        return name in _reads(build, settings)
    except EngineError:  # it needs more than this choice, for example a model
        return False


def _choices(annotation: Any) -> list[str]:
    """The words that a setting of this type may be."""
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    return [word for part in get_args(annotation) for word in _choices(part)]
