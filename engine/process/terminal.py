"""Print names and messages unchanged, except for characters that a terminal would obey.

Paths, items and messages may hold any character. Rich takes square brackets for markup. A terminal obeys escape
sequences. Python keeps bytes that are not UTF-8 as surrogates, which it cannot print.
"""

from __future__ import annotations

import io
import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

# Format characters that change the direction of the text; other format characters (joiners, marks) belong to scripts.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, line and paragraph separators


def shown(text: object) -> str:
    """Return the text on one line; control characters and bytes that are not UTF-8 become escapes (``\\xff``)."""
    plain = str(text)
    return plain if plain.isascii() and plain.isprintable() else "".join(map(_shown_character, plain))


def shown_lines(text: object) -> str:
    """Apply ``shown`` to each line; indent all but the first, so that a line cannot pass for a new message."""
    return "\n  ".join(shown(line) for line in str(text).split("\n"))


class PlainConsole(Console):
    """A console that prints plain text, not markup, and prints control characters as escapes, also in tables."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, text: object) -> None:
        """Print one line, however long."""
        self.print(shown(text), soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(shown, text.split("\n"))), **options)


def let_every_name_be_printed() -> None:
    """Let standard output and errors print a character that their encoding lacks as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _shown_character(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character not in _TURNING and unicodedata.category(character) not in _HIDDEN:
        return character
    return repr(character)[1:-1]
