"""Places where a command writes for its user: files, folders and URLs, checked before work starts."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.errors import ConfigError
from engine.storage import manifest
from engine.storage.paths import check_out_file, check_out_folder
from engine.storage.remote import Storage, absolute, is_url


def out_folder(place: str | Path, *, option: str = "--out") -> str:
    """Return the absolute path or URL of a folder that a command will fill. Raises ``ConfigError``."""
    return absolute(place) if is_url(place) else str(check_out_folder(_path(place), option=option))


def out_file(place: str | Path, *, option: str = "--out", never: Iterable[str | Path] = ()) -> str:
    """Return the absolute path or URL of a file that a command will write.

    ``never``: files and folders that the command reads and must not change. Raises ``ConfigError``.
    """
    never = list(never)
    if not is_url(place):
        return str(
            check_out_file(_path(place), option=option, never=[Path(each) for each in never if not is_url(each)])
        )
    url = absolute(place)
    if str(place).endswith("/") or "/" not in url.partition("://")[2]:
        raise ConfigError(f"{option} {place}: names a folder, expected the name of a file to write")
    for each in (absolute(each) for each in never if is_url(each)):
        if url == each or url.startswith(f"{each}/"):
            raise ConfigError(f"{option} {url}: lies in {each}, which this command reads; choose another name")
    return url


def write_out(place: str, write: Callable[[Path], Any]) -> None:
    """Call ``write`` with a path for the file of ``out_file``; for a URL, then copy the file there."""
    if not is_url(place):
        path = Path(place)
        manifest.remove_abandoned(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))
        write(path)
        return
    with TemporaryDirectory(prefix="asterism-") as folder:
        path = Path(folder, "file")
        write(path)
        Storage(place).put([path], [""])


def _path(place: str | Path) -> str | Path:
    return absolute(place) if str(place).strip() else place
