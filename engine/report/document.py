"""The frame of every HTML page of the engine, and the pieces that its pages share."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib.resources import files

_THEME_BUTTON = (
    '<button id="theme" type="button" aria-label="Switch between light and dark" title="Light or dark">'
    '<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.2"/>'
    '<path d="M8 1.8a6.2 6.2 0 0 1 0 12.4Z"/></svg></button>'
)
LOGO = (
    '<svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><path d="M7 23 16 7l9 16Z"/>'
    '<circle cx="16" cy="7" r="4"/><circle cx="7" cy="23" r="4"/><circle cx="25" cy="23" r="4"/></svg>'
)


def page(title: str, links: Iterable[tuple[str, str]], body: str) -> str:
    """Render a whole page around the HTML of ``body``; ``links`` are ids and titles of its sections."""
    navigation = "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in links)
    style, script = _asset("report.css"), _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header class="bar-top"><div class="wrap"><a class="brand" href="#top">{LOGO}Asterism</a>'
        f"<nav>{navigation}</nav>{_THEME_BUTTON}</div></header>"
        f'<main class="wrap" id="top">{body}</main>'
        f'<div id="tip" role="status" hidden></div><script>{script}</script></body></html>\n'
    )


def panel(title: str, lead: str, body: str) -> str:
    """Render a titled part of a section; ``lead`` and ``body`` are HTML."""
    return f'<div class="panel"><h3>{title}</h3>' + (f'<p class="lead">{lead}</p>' if lead else "") + body + "</div>"


def meter(value: float) -> str:
    """Render a share of 0..1 as a bar."""
    return f'<i class="meter"><i style="width:{100 * min(max(value, 0.0), 1.0):.1f}%"></i></i>'


def percent(part: int, whole: int) -> str:
    """Return a share as a percentage."""
    share = 100 * part / whole if whole else 0.0
    return f"{share:.2f} %" if 0 < share < 0.1 else f"{share:.1f} %"


def plural(count: int, noun: str) -> str:
    """Return the noun in the number of ``count``."""
    return noun if count == 1 else noun + "s"


def duration_words(seconds: float) -> str:
    """Return a duration in its one or two largest units."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_words(count: int) -> str:
    """Return a number of bytes in a binary unit."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if size >= 100 or units[0] == "B" else f"{size:.1f} {units[0]}"


def _asset(name: str) -> str:
    return (files("engine.report") / name).read_text(encoding="utf-8")
