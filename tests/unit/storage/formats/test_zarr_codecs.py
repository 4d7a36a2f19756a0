"""Codecs of zarr arrays: those of numbers are read, any other is refused before zarr sees the array."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from numcodecs import zarr3

from engine.errors import DataError
from engine.storage.formats.registry import open_source
from engine.storage.formats.zarr_codecs import COMPRESSORS, FILTERS

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)
V2 = {
    "zarr_format": 2, "shape": [6, 4], "chunks": [6, 4], "dtype": "<f4", "fill_value": 0.0, "order": "C",
    "compressor": None, "filters": None,
}  # fmt: skip
V3 = {
    "zarr_format": 3, "node_type": "array", "shape": [6, 4], "data_type": "float32", "fill_value": 0.0,
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [6, 4]}}, "attributes": {},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}  # fmt: skip
PICKLE = {"id": "pickle", "protocol": 5}


class Touch:
    """What a pickle of it does when it is read: make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def write(folder: Path, metadata: dict[str, Any], marker: Path) -> Path:
    """An array whose chunk is a pickle that makes a file."""
    version_2 = metadata.get("zarr_format") == 2
    chunk = folder / ("0.0" if version_2 else "c/0/0")
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(numcodecs.Pickle().encode(np.array([Touch(marker)], object)))
    (folder / (".zarray" if version_2 else "zarr.json")).write_text(json.dumps(metadata))
    return folder


SHARDED = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [6, 4], "codecs": [{"name": "numcodecs.pickle"}], "index_codecs": [{"name": "crc32c"}]
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({**V2, "filters": [PICKLE]}, "pickle"),
        ({**V2, "dtype": "|O", "filters": [{"id": "delta", "dtype": "<f4"}, PICKLE]}, "pickle"),
        ({**V2, "compressor": PICKLE}, "pickle"),
        ({**V2, "filters": PICKLE}, "pickle"),
        ({**V2, "filters": [{"id": "json2"}]}, "json2"),
        ({**V2, "filters": [{"id": "msgpack2"}]}, "msgpack2"),
        ({**V2, "compressor": {"id": "some.module:Class"}}, "some.module:Class"),
        ({**V2, "compressor": {"id": ["blosc"]}}, "blosc"),
        ({**V2, "compressor": {"name": "zlib", "id": "pickle"}}, "pickle"),
        ({**V2, "compressor": {}}, "None"),
        ({**V3, "codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}, "numcodecs.pickle"),
        ({**V3, "codecs": ["numcodecs.pickle"]}, "numcodecs.pickle"),
        ({**V3, "codecs": [SHARDED]}, "numcodecs.pickle"),
        ({**V3, "codecs": [{"name": "vlen-utf8"}]}, "vlen-utf8"),
    ],
)
def test_a_codec_that_is_not_known_is_refused(metadata: dict[str, Any], name: str, tmp_path: Path) -> None:
    for place in (tmp_path / "x.zarr", tmp_path / "group.zarr/x"):
        write(place, metadata, tmp_path / "ran")
    (tmp_path / "group.zarr/.zgroup").write_text('{"zarr_format": 2}')
    for path in (tmp_path / "x.zarr", tmp_path / "group.zarr"):
        with pytest.raises(DataError, match=rf"the codec .*{name}.*is none that is decoded here.*write the array with"):
            open_source(path)
    assert not (tmp_path / "ran").exists()


def test_consolidated_metadata_is_checked_too(tmp_path: Path) -> None:
    evil = {**V2, "filters": [PICKLE]}
    write(tmp_path / "two.zarr/x", V2, tmp_path / "ran")
    (tmp_path / "two.zarr/.zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "two.zarr/.zmetadata").write_text(
        json.dumps({"zarr_consolidated_format": 1, "metadata": {".zgroup": {"zarr_format": 2}, "x/.zarray": evil}})
    )
    write(tmp_path / "three.zarr/x", V3, tmp_path / "ran")
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    held = {"kind": "inline", "must_understand": False, "metadata": {"x": {**V3, "codecs": ["numcodecs.pickle"]}}}
    (tmp_path / "three.zarr/zarr.json").write_text(json.dumps({**group, "consolidated_metadata": held}))
    for name in ("two", "three"):
        with pytest.raises(DataError, match=r"codec '\S*pickle' is none"):
            open_source(tmp_path / f"{name}.zarr")


def test_metadata_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".zarray").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not a readable zarr"):
        open_source(tmp_path)


def test_attributes_may_say_anything(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=ROWS.shape, dtype="f4", chunks=(6, 4))
    array[:] = ROWS
    array.attrs.update({"filters": ["nose"], "codecs": "opus", "compressor": {"id": "pickle"}})
    np.testing.assert_array_equal(open_source(tmp_path / "x.zarr").read(0, 6), ROWS)


CONFIGURED = {
    "astype": {"encode_dtype": "<f4", "decode_dtype": "<f4"}, "delta": {"dtype": "<f4"}, "bitround": {"keepbits": 20},
    "quantize": {"digits": 3, "dtype": "<f4"}, "fixedscaleoffset": {"offset": 0, "scale": 1, "dtype": "<f4"},
    "shuffle": {"elementsize": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", [*COMPRESSORS, *FILTERS])
def test_known_codecs_are_read_in_both_versions(name: str, tmp_path: Path) -> None:
    codec = numcodecs.get_codec({"id": name, **CONFIGURED.get(name, {})})
    kind = "compressors" if name in COMPRESSORS else "filters"
    two = zarr.create_array(
        str(tmp_path / "2.zarr"), shape=ROWS.shape, dtype="f4", chunks=(6, 4), zarr_format=2,
        **{"compressors": None, kind: codec if kind == "compressors" else [codec]},
    )  # fmt: skip
    two[:] = ROWS
    np.testing.assert_array_equal(open_source(tmp_path / "2.zarr").read(0, 6), ROWS)
    made = next((made for made in vars(zarr3).values() if getattr(made, "codec_name", "") == f"numcodecs.{name}"), None)
    if made is None or not hasattr(made, "to_dict"):
        return
    (tmp_path / "3.zarr").mkdir()
    codecs = [{"name": f"numcodecs.{name}", "configuration": CONFIGURED.get(name, {})}]
    metadata = {**V3, "codecs": [*V3["codecs"], *codecs] if kind == "compressors" else [*codecs, *V3["codecs"]]}
    (tmp_path / "3.zarr/zarr.json").write_text(json.dumps(metadata))
    try:
        three = zarr.open_array(str(tmp_path / "3.zarr"), mode="r+")
        three[:] = ROWS
    except Exception as error:
        pytest.skip(f"zarr cannot write it in version 3: {error}")
    np.testing.assert_array_equal(open_source(tmp_path / "3.zarr").read(0, 6), ROWS)
