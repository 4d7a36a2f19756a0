"""Leaves secrets out of what is recorded: passwords of URLs, signatures and keys of their queries, Ray's token."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_USER = re.compile(r"([a-z][a-z0-9+.-]*://)[^/@\s'\"]+@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&;][^=&\s'\"]*(?:key|secret|token|sig|signature|credential|password)[^=&\s'\"]*=)[^&#\s'\"]+", re.IGNORECASE
)


def masked(value: Any) -> Any:
    """The same text, list or mapping of plain data, each secret in it replaced by ``***``."""
    if isinstance(value, str):
        text = _QUERY.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", value))
        token = os.environ.get("RAY_AUTH_TOKEN", "")
        return text.replace(token, MASK) if len(token) >= 8 else text
    if isinstance(value, Mapping):
        return {name: masked(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return value
