"""Leave secrets out of messages and records: passwords of URLs, keys and signatures in queries, Ray's token.

A secret may hold any character but white space. If its end is unclear, the mask covers the rest of the word, because
too much masked is better than a part of a secret shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_WORD, _SLASHES = re.compile(r"\S+"), re.compile(r"(?<=[a-z0-9]):/+", re.IGNORECASE)
_NAMES = "key|secret|token|sig|signature|credential|passw|pwd|pass|auth|sas|session|jwt|code"
_PART = r"[^=&\s?;#]{0,60}?"
_QUERY = re.compile(rf"([?&;#]{_PART}(?:{_NAMES}){_PART}=)[^&\s]+?(?=['\"]?(?:[&\s]|$))", re.IGNORECASE)
_HEADER = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?(?:[a-z]+\s+)?|\bbearer\s+)\S+?(?=['\"]?[,}\])]{0,4}(?:\s|$))", re.IGNORECASE
)


def masked(value: Any) -> Any:
    """Return the text, list or mapping of plain data with each secret replaced by ``***``."""
    if isinstance(value, str):
        text = _HEADER.sub(rf"\1{MASK}", _QUERY.sub(rf"\1{MASK}", _WORD.sub(_without_user, value)))
        token = os.environ.get("RAY_AUTH_TOKEN", "")
        return text.replace(token, MASK) if len(token) >= 8 else text
    if isinstance(value, Mapping):
        return {name: masked(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return value


def holds_secret(url: str) -> bool:
    """Tell whether a URL has user information (anywhere before an ``@``), a query or a fragment.

    An ``@`` after the first slash is taken for part of a file's name unless a colon stands before it.
    """
    scheme, _, rest = url.partition("://")
    local, host = scheme.lower() in ("file", "local"), rest.partition("/")[0]
    if "/" in scheme or (local and not host):
        return False
    return "@" in host or ":" in rest.rpartition("@")[0] or (not local and bool({"?", "#"} & set(rest)))


def _without_user(found: re.Match[str]) -> str:
    """Return a word that holds a URL without the user information of the URL.

    User information with a colon may hold slashes, so everything up to the last ``@`` goes. Without a colon only an
    ``@`` before the first slash counts, because a later one is often part of a path.
    """
    word = found[0]
    slashes = _SLASHES.search(word)
    rest = word[slashes.end() :] if slashes else ""
    user, at, after = rest.rpartition("@")
    if ":" not in user:
        user, at, after = rest.partition("/")[0].rpartition("@")
        after = rest[len(user) + 1 :]
    return f"{word[: len(word) - len(rest)]}{MASK}@{after}" if at else word
