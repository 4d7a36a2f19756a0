"""The methods that a comparison compares, as they are named to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.commands.configuration import load_settings
from engine.errors import ConfigError
from engine.methods.registry import METHODS, PRESETS
from engine.settings import Settings


@dataclass(frozen=True)
class Contender:
    """A method to compare: ``METHOD``, a preset's name ``METHOD/PRESET``, either with ``:PARTITION``."""

    name: str
    method: str
    preset: str | None = None
    partition: str | None = None

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Raises ``ConfigError`` naming what is not known."""
        base, _, partition = text.strip().partition(":")
        preset = base if "/" in base else None
        method: Any = PRESETS[base]["method"] if preset in PRESETS else base
        if method not in METHODS:
            known = ", ".join([*METHODS, *PRESETS])
            raise ConfigError(f"--methods {text}: no such method; known: {known}; each may be followed by :partition")
        if partition and METHODS[method].clusters_itself:
            raise ConfigError(f"--methods {text}: {method} clusters by itself; leave out :{partition}")
        if partition:
            METHODS[method].check(load_settings(overrides={"partition.method": partition}))
        return cls(text.strip(), method, preset, partition or None)

    @property
    def slug(self) -> str:
        return self.name.replace("/", "-").replace(":", "-")

    def settings(self, given: Mapping[str, Any], seed: int | None) -> Settings:
        """Its preset's settings, those given that its training or its runs read, and its partition."""
        read = {name: value for name, value in given.items() if METHODS[self.method].reads(name, training=True)}
        partition = {"partition.method": self.partition} if self.partition else {}
        return load_settings(self.preset, {**read, **partition}, method=self.method, seed=seed).unnamed()
