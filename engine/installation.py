"""What is installed: the distribution that this package came with, and how to install what is missing of it."""

from __future__ import annotations

import os
from importlib import metadata
from tempfile import gettempdir, mkdtemp

NAME = "asterism-clustering"  # of the distribution; the command and the package have shorter names


def distribution() -> str:
    """Return the name of the installed distribution: from its metadata, because a fork may have renamed it."""
    try:
        return metadata.distribution(NAME).name
    except metadata.PackageNotFoundError:
        for command in metadata.entry_points(group="console_scripts", name="asterism"):
            if command.value.startswith("engine.") and command.dist is not None:
                return command.dist.name
    return NAME


def install_hint(extra: str) -> str:
    """Return the command that installs what an optional part needs."""
    return f"pip install '{distribution()}[{extra}]'"


def let_numba_cache() -> None:
    """Name a temporary folder for numba's compiled code if it would find none that it can write, and fail.

    numba takes the package's own folder, else one in the user's home. A read-only system without a home has neither.
    The folder is new and of this user alone, because numba loads code from it.
    """
    if "NUMBA_CACHE_DIR" in os.environ or os.access(os.path.dirname(__file__), os.W_OK):
        return
    home = os.path.join(os.path.expanduser("~"), ".cache", "numba")
    while home != os.path.dirname(home) and not os.path.lexists(home):
        home = os.path.dirname(home)
    if os.path.isabs(home) and home != "/" and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    try:
        os.environ["NUMBA_CACHE_DIR"] = _own_folder(os.path.join(gettempdir(), f"asterism-numba-{os.getuid()}"))
    except OSError:  # nothing can be written anywhere, or no temporary folder is found: numba says so
        return


def _own_folder(path: str) -> str:
    """Return a folder of this user alone: ``path``, or another if that one is not."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        state = os.lstat(path)
        if state.st_uid != os.getuid() or state.st_mode & 0o077 or not os.path.isdir(path) or os.path.islink(path):
            return mkdtemp(prefix="asterism-numba-")
    return path
