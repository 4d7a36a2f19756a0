"""What is printed: names and messages as they are, with nothing in them that a terminal would obey.

Paths, items and messages may hold any character: square brackets, which Rich takes for markup; escape sequences, which
move the cursor or change what is shown; bytes that are no UTF-8, which Python keeps as surrogates and cannot print.
"""

from __future__ import annotations

import io
import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

# Format characters that turn the direction of the text after them; the others (joiners, marks) are part of scripts.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, line and paragraph separators


def shown(text: object) -> str:
    """The text on one line, its control characters written as escapes; a byte that is no UTF-8 as ``\\xff``."""
    plain = str(text)
    return plain if plain.isascii() and plain.isprintable() else "".join(map(_shown_character, plain))


def shown_lines(text: object) -> str:
    """As ``shown``, but lines stay lines; those after the first are indented, so that none passes for a new message."""
    return "\n  ".join(shown(line) for line in str(text).split("\n"))


class PlainConsole(Console):
    """A console for text that is no markup: what it prints, cells of tables too, has its controls as escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, text: object) -> None:
        """Print one line, however long."""
        self.print(shown(text), soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(shown, text.split("\n"))), **options)


def let_every_name_be_printed() -> None:
    """Have standard output and errors write what their encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _shown_character(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character not in _TURNING and unicodedata.category(character) not in _HIDDEN:
        return character
    return repr(character)[1:-1]
