"""Helpers of one task: objects that it starts, has work at the same time as itself, and gives back when it ends.

A companion is made of a class named ``"module:Class"`` and plain arguments. It owns nothing that storage does not have:
if one dies the task fails with a ``ConnectionError``, which is worth another attempt, and starts anew.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Companions(Protocol):
    """The companions of a task, by number; see ``tests/contracts/test_executors.py`` for what they keep."""

    def __len__(self) -> int: ...

    def begin(self, number: int, method: str, *arguments: Any, parts: int = 0) -> Any:
        """Begin a call of companion ``number`` and return a promise; a companion's calls run in the order begun.

        With ``parts`` the method returns a list of so many, and a promise of each comes back. Arguments may be
        promises: what was promised then travels between the companions, not through the task.
        """
        ...

    def wait(self, promises: Sequence[Any]) -> list[Any]:
        """What was promised, in order; raises what a method raised, ``ConnectionError`` if its companion died."""
        ...

    def close(self) -> None:
        """End the companions; safe to call twice."""
        ...


StartCompanions = Callable[[str, Sequence[tuple[Any, ...]], bool], Companions]


class CompanionsHere:
    """Companions in this process, called in turn: a promise is the result itself."""

    def __init__(self, companions: Sequence[Any]) -> None:
        self._companions = list(companions)

    def __len__(self) -> int:
        return len(self._companions)

    def begin(self, number: int, method: str, *arguments: Any, parts: int = 0) -> Any:
        """Make the call; see ``Companions``."""
        return getattr(self._companions[number], method)(*arguments)

    def wait(self, promises: Sequence[Any]) -> list[Any]:
        """What the calls returned."""
        return list(promises)

    def close(self) -> None:
        """Drop the objects."""
        self._companions.clear()


def start_here(name: str, arguments: Sequence[tuple[Any, ...]], on_device: bool = False) -> CompanionsHere:
    """Make a companion of each tuple of arguments in this process, which has what GPU there is."""
    made = resolve(name)
    return CompanionsHere([made(*given) for given in arguments])


def exchange(companions: Companions, give: str, take: str) -> list[Any]:
    """Have each companion ``give`` a message for every one, and each ``take`` those for it, in the givers' order.

    Returns what the takes returned. All have given before any has taken.
    """
    count = len(companions)
    given = [companions.begin(number, give, parts=count) for number in range(count)]
    takes = [companions.begin(number, take, *(messages[number] for messages in given)) for number in range(count)]
    return companions.wait(takes)


def resolve(name: str) -> Callable[..., Any]:
    """Import ``"module:name"``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
