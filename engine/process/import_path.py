"""The import path of processes that this one starts: it leaves out the current folder.

The current folder may be another user's, and Python would run a module of the right name in it. The one exception is a
checkout from which this process imported the engine.
"""

from __future__ import annotations

import os
from pathlib import Path

_ENGINE = Path(__file__).resolve().parents[2]


def needed_path() -> list[str]:
    """Return the folder of the running engine, if Python does not look there by itself."""
    return [] if _ENGINE.name in ("site-packages", "dist-packages") else [str(_ENGINE)]


def child_environment() -> dict[str, str]:
    """Return an environment in which a Python process started with ``-P`` finds this engine and its libraries."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # an empty entry means the current folder
    path = os.pathsep.join([*needed_path(), *filter(None, given)])
    return {**os.environ, "PYTHONPATH": path} if path else dict(os.environ)
