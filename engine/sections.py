"""The base of every section of settings, and the fingerprint of settings and other plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MAX_INTEGER = 2**63 - 1
TwoOrMore = Annotated[int, Field(ge=2, le=MAX_INTEGER)]
Width = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Share = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]

_READ: ContextVar[dict[int, set[str]] | None] = ContextVar("read", default=None)  # fields, by the section's identity


@contextmanager
def recorded_reads(sections: Iterable[Section]) -> Iterator[set[str]]:
    """Collect the dotted names of the settings of these sections that are read meanwhile.

    They are read one by one, or with their whole section. What a copy of a section tells is not seen.
    """
    names = {id(section): section.name for section in sections}
    fields: dict[int, set[str]] = {each: set() for each in names}
    read: set[str] = set()
    token = _READ.set(fields)
    try:
        yield read
    finally:
        _READ.reset(token)
        read.update(f"{names[section]}.{field}" for section, found in fields.items() for field in found)


class Section(BaseModel):
    """Base of every settings section: immutable; unknown fields, NaN, infinity and more than 64 bits are refused.

    No setting is true or false, because these would pass for the numbers 1 and 0. ``name`` is the section's name
    in files and options. ``recorded_reads`` sees which fields are read.
    """

    name: ClassVar[str]

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __getattribute__(self, name: str) -> Any:
        read = _READ.get()
        if read is not None and name in type(self).model_fields and (found := read.get(id(self))) is not None:
            found.add(name)
        return super().__getattribute__(name)

    def model_dump(self, **given: Any) -> dict[str, Any]:
        """Return the fields as a plain mapping. Whoever asks for it reads all of them."""
        read = _READ.get()
        if read is not None and (found := read.get(id(self))) is not None:
            found.update(type(self).model_fields)
        return super().model_dump(**given)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switches(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(kind, type) and issubclass(kind, Section):  # errors then name the section's own fields
            if not isinstance(value, dict | Section):
                raise ValueError("expected settings by their names")
        elif _holds_switch(value):
            raise ValueError("no setting is true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _in_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise ValueError(f"expected at most {MAX_INTEGER}")
        return value


def fingerprint(value: Any) -> str:
    """Hash any JSON-like value, or settings section, to 32 hex digits, the same in every process."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_jsonable)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"cannot fingerprint {type(value).__name__}")


def _holds_switch(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return isinstance(value, bool) or any(_holds_switch(each) for each in inner)
