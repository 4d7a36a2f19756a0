"""Ray's token: made for a Ray that this process starts, and required before it joins a compute cluster.

Whoever reaches the ports of a Ray cluster without a token can run any program on its hosts.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from engine.errors import ConfigError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def token_file() -> Path:
    """Return the file from which Ray reads its token if the environment has none."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def require_token() -> None:
    """Make a Ray that this process starts require its token, whatever the environment says.

    Without one, any user of this machine could run programs as this user. A configured token is used if no other user
    can read it; else this function makes a token, which stays in memory.
    """
    if not os.environ.get(TOKEN, "").strip() and not _is_secret(token_file()):
        os.environ[TOKEN] = secrets.token_hex(32)
    os.environ[MODE] = "token"
    Config.initialize("")  # because Ray read the environment when it was imported
    AuthenticationTokenLoader.instance().reset_cache()


def _is_secret(path: Path) -> bool:
    """Tell whether a file holds a token and belongs to this user, and no other user can read it."""
    try:
        found = path.stat()
    except OSError:
        return False
    mine = found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return stat.S_ISREG(found.st_mode) and mine and found.st_size > 0


def check_token(address: str) -> None:
    """Raise ``ConfigError`` for an address of no compute cluster, no token, and a token that others can read.

    The compute cluster itself is not asked, because one without a token takes no workers from a driver that has one.
    """
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS={address}: that is a dashboard, for ray job submit; expected host:port, or auto"
        )
    mode = os.environ.get(MODE, "")
    if mode.lower() != "token":
        raise ConfigError(
            f"RAY_ADDRESS={address}: {MODE} is {mode or 'not set'}, so anyone who reaches this cluster could run "
            f"programs on it; start its hosts with {MODE}=token and one token, and set the same here"
        )
    if os.environ.get(TOKEN):
        return
    path = token_file()
    if not path.is_file():
        raise ConfigError(
            f"RAY_ADDRESS={address}: {MODE}=token, but there is no token: {TOKEN} is not set and {path} does not "
            f"exist; set {TOKEN_PATH} to a file that holds the cluster's token"
        )
    permissions = stat.S_IMODE(path.stat().st_mode)
    if permissions & 0o077:
        raise ConfigError(f"{path} holds Ray's token and others may read it (mode {permissions:04o}): chmod 600 {path}")
