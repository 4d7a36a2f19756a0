"""Where processes that this one starts import from: never the folder that they happen to be started in.

That may be somebody else's, and a module of the right name in it would run. The one exception is a checkout from which
the engine itself was imported.
"""

from __future__ import annotations

import os
from pathlib import Path

_ENGINE = Path(__file__).resolve().parents[2]


def needed_path() -> list[str]:
    """The folder that the running engine is in, where Python would not look by itself."""
    return [] if _ENGINE.name in ("site-packages", "dist-packages") else [str(_ENGINE)]


def child_environment() -> dict[str, str]:
    """The environment of a Python process that is started with ``-P``: it finds this engine and its libraries."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # where nothing stands for the current folder
    path = os.pathsep.join([*needed_path(), *filter(None, given)])
    return {**os.environ, "PYTHONPATH": path} if path else dict(os.environ)
