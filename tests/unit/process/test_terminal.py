"""What is printed: names as they are, nothing that a terminal would obey."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from engine.process.terminal import PlainConsole, shown, shown_lines
from engine.runs.progress import Plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[red]a[/]:smile:", "[red]a[/]:smile:"),
        ("a\x1b[31m\r\n\t\x07\x7f\x85", r"a\x1b[31m\r\n\t\x07\x7f\x85"),
        ("caf\u00e9 \u65e5\u672c \u2192", "caf\u00e9 \u65e5\u672c \u2192"),
        ("\udcff\ud800", r"\xff\ud800"),
        ("exe.\u202egpj\u2028", r"exe.\u202egpj\u2028"),
        ("\u0645\u200d\u062d", "\u0645\u200d\u062d"),
    ],
)
def test_only_what_a_terminal_would_obey_is_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected
    printed = PlainConsole(file=io.StringIO(), width=200)
    printed.say(text)
    table = Table(text)
    table.add_row(text)
    printed.print(table)
    lines = printed.file.getvalue().splitlines()
    assert lines[0] == expected
    cell = expected.replace(r"\n", "")
    assert "\x1b" not in "".join(lines)
    assert ("\n" in text) or sum(cell in line for line in lines) == 3


def test_no_line_passes_for_another_message() -> None:
    assert shown_lines("one\nasterism: error: two\x1b") == "one\n  asterism: error: two\\x1b"


def test_progress_lines_are_plain_too() -> None:
    stream = io.StringIO()
    Plain(stream).message("a [b]\x1b]0;title\x07")
    assert stream.getvalue() == "a [b]\\x1b]0;title\\x07\n"
