"""What mkdocs does besides: links that lead out of ``docs/`` become the names of the files, which no site has."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite one page; mkdocs calls this by its name."""
    folder = posixpath.dirname(page.file.src_uri)

    def named(link: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(folder, link[3]))
        if not place.startswith("../"):
            return link[0]
        name = place.removeprefix("../")
        return f"`{name}`" if link[1] or link[2].rpartition("/")[2] in link[3] else f"{link[2]} (`{name}`)"

    return _LINK.sub(named, markdown)
