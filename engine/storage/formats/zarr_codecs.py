"""The codecs that a user's zarr array may have: compressors and filters of numbers, none that makes objects.

Metadata names the codecs that decode each chunk. A codec of numcodecs reads pickles, and a pickle can run any code. So
a codec that is not listed here is refused before zarr sees the array, with any version of zarr and numcodecs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import DataError
from engine.storage.paths import explain_reading

METADATA_FILES = (".zarray", ".zmetadata", "zarr.json")
COMPRESSORS = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")
FILTERS = (
    "adler32",
    "astype",
    "bitround",
    "crc32",
    "crc32c",
    "delta",
    "fixedscaleoffset",
    "fletcher32",
    "jenkins_lookup3",
    "quantize",
    "shuffle",
)
_VERSION_2 = {*COMPRESSORS, *FILTERS}
_VERSION_3 = {
    "blosc",
    "bytes",
    "crc32c",
    "gzip",
    "sharding_indexed",
    "transpose",
    "zstd",
    *(f"numcodecs.{name}" for name in _VERSION_2),
}
_CODECS = {"compressor": _VERSION_2, "filters": _VERSION_2, "codecs": _VERSION_3, "index_codecs": _VERSION_3}


def check_codecs(path: Path) -> None:
    """Raise ``DataError`` for a file of zarr metadata, of version 2 or 3, that names another codec."""
    with explain_reading(path):
        data = path.read_bytes()
    try:
        _check(path, json.loads(data))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable zarr array or group: not valid JSON: {error}") from None


def _check(path: Path, tree: Any) -> None:
    if isinstance(tree, list):
        for item in tree:
            _check(path, item)
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if key == "attributes" or key.rpartition("/")[2] == ".zattrs":  # texts of the user
            continue
        for codec in value if isinstance(value, list) else [value]:
            if key in _CODECS and codec is not None:
                _check_codec(path, codec, _CODECS[key])
        _check(path, value)


def _check_codec(path: Path, codec: Any, known: set[str]) -> None:
    name = codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec
    both = isinstance(codec, dict) and {"id", "name"} <= set(codec)
    if both or not isinstance(name, str) or name not in known:
        raise DataError(
            f"{path}: the codec {str(name)[:60]!r} is none that is decoded here, as some codecs can run code; write "
            f"the array with one of {', '.join(COMPRESSORS)}, and filters of numbers alone"
        )
