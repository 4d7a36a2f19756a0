"""Companions: helper objects that a task starts, that work beside it, and that end with it.

A companion is an object of the class named ``"module:Class"``, made with plain arguments. Storage has everything that a
companion holds. If a companion dies, the task fails with a ``ConnectionError`` and is tried again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Companions(Protocol):
    """The companions of a task, by number; ``tests/contracts/test_executors.py`` says what they must keep."""

    def __len__(self) -> int: ...

    def begin(self, number: int, method: str, *arguments: Any, parts: int = 0) -> Any:
        """Begin a call of companion ``number`` and return a promise. A companion runs its calls in the order begun.

        With ``parts`` the method returns a list of that length, and this returns a list of promises. An argument may be
        a promise; the promised value then travels between the companions and not through the task.
        """
        ...

    def wait(self, promises: Sequence[Any]) -> list[Any]:
        """Return the promised values in order; raise a method's error, or ``ConnectionError`` if a companion died."""
        ...

    def close(self) -> None:
        """End the companions. A second call does nothing."""
        ...


StartCompanions = Callable[[str, Sequence[tuple[Any, ...]], bool], Companions]


class CompanionsHere:
    """Companions in this process. A call runs at once, and its promise is the result."""

    def __init__(self, companions: Sequence[Any]) -> None:
        self._companions = list(companions)

    def __len__(self) -> int:
        return len(self._companions)

    def begin(self, number: int, method: str, *arguments: Any, parts: int = 0) -> Any:
        """Make the call; see ``Companions``."""
        return getattr(self._companions[number], method)(*arguments)

    def wait(self, promises: Sequence[Any]) -> list[Any]:
        """Return the results."""
        return list(promises)

    def close(self) -> None:
        """Drop the objects."""
        self._companions.clear()


def start_here(name: str, arguments: Sequence[tuple[Any, ...]], on_device: bool = False) -> CompanionsHere:
    """Make a companion of each tuple of arguments in this process, which has the GPU if there is one."""
    made = resolve(name)
    return CompanionsHere([made(*given) for given in arguments])


def exchange(companions: Companions, give: str, take: str) -> list[Any]:
    """Call ``give`` of every companion for a message to each, then ``take`` of each with its messages, by giver.

    Returns the results of the ``take`` calls. Every ``give`` ends before the first ``take`` begins.
    """
    count = len(companions)
    given = [companions.begin(number, give, parts=count) for number in range(count)]
    takes = [companions.begin(number, take, *(messages[number] for messages in given)) for number in range(count)]
    return companions.wait(takes)


def resolve(name: str) -> Callable[..., Any]:
    """Import ``"module:name"``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
