"""The formats of vectors that ``open_source`` knows. To add one, add a ``Format`` to ``FORMATS``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from os.path import abspath, isdir
from pathlib import Path
from typing import Any

from engine.errors import DataError
from engine.storage.formats.binary import FvecsVectors, RawVectors, open_bin, open_fbin, open_npy, open_npz
from engine.storage.formats.columns import ColumnNames, ColumnVectors
from engine.storage.formats.lance_table import is_lance, lance_files, open_lance
from engine.storage.formats.packed_bits import UnpackedBits
from engine.storage.formats.parquet_arrow import FOLDER_SUFFIXES, TABLE_SUFFIXES, TableFile, open_table, table_files
from engine.storage.formats.sources import SourceOptions, VectorSource, natural_order
from engine.storage.formats.texts import TextNames, companion_items, line_offsets
from engine.storage.formats.wide import WideTable, as_wide
from engine.storage.formats.zarr_array import ZarrVectors, is_zarr
from engine.storage.paths import below, check_file, check_folder_of_files, check_readable, lies_there

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")


@dataclass(frozen=True)
class Format:
    """A format of vectors: ``matches`` reads names only; ``open`` may raise ``DataError``.

    ``shown``: how a message lists the format, empty if another's words name it too.
    """

    name: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, SourceOptions], VectorSource]
    shown: str = ""


def open_source(
    path: str | Path,
    *,
    dim: int | None = None,
    column: str | None = None,
    items_column: str | None = None,
    bits: str | None = None,
) -> VectorSource:
    """Open vectors in any supported format; read headers only.

    ``dim``: needed by ``.bin``, compared with the file by other formats. ``column``: the Parquet or Arrow column, the
    array of a ``.npz`` or zarr group, the model of a folder with ``list.txt``, or the prefix of ``img_emb_*.npy``; the
    default is the only one, or the usual name. ``items_column``: the Parquet, Arrow or metadata column of the items.
    ``bits``: how numbers hold packed bits (``UnpackedBits``); ``numbers`` says that they hold none.
    Raises ``DataError`` that says what was found and what to do, if the file does not hold rows of numbers (missing,
    empty, truncated, pickled, of another shape or type) or the format has no use for an option.
    """
    path = Path(abspath(path))
    is_folder = check_readable(path)
    options = SourceOptions(dim, column, items_column, bits)
    for known in FORMATS:
        if known.matches(path):
            source = known.open(path, options)
            if bits in ("ubinary", "binary"):
                source.wrap(lambda part: UnpackedBits(part, bits))
            return source
    if path.suffix.lower() in _PICKLES:
        raise DataError(
            f"{path}: pickled files run code when loaded, so they are refused; "
            f"save the vectors with np.save and pass the .npy"
        )
    found = (
        f"a folder of {', '.join(sorted(p.name for p in path.iterdir())[:5]) or 'nothing'}" if is_folder else "a file"
    )
    supported = ", ".join(known.shown for known in FORMATS if known.shown)
    raise DataError(f"{path}: {found} of no known format; supported: {supported}")


def _open_bin(path: Path, options: SourceOptions) -> VectorSource:
    options.refuse(path, "column", "items_column")
    return _with_items(path, options, open_bin(path, options.dim))


def _open_npy(path: Path, options: SourceOptions) -> VectorSource:
    options.refuse(path, "column", "items_column")
    return _with_items(path, options, RawVectors(open_npy(path)))


def _open_npz(path: Path, options: SourceOptions) -> VectorSource:
    options.refuse(path, "items_column")
    rows = open_npz(path, options.column)
    return _with_items(path, options, RawVectors(rows), sequential=rows.sequential)


def _open_fvecs(path: Path, options: SourceOptions) -> VectorSource:
    options.refuse(path, "column", "items_column")
    return _with_items(path, options, FvecsVectors(path))


def _open_fbin(path: Path, options: SourceOptions) -> VectorSource:
    options.refuse(path, "column", "items_column")
    return _with_items(path, options, open_fbin(path))


def _open_zarr(path: Path, options: SourceOptions) -> VectorSource:
    options.refuse(path, "items_column")
    part = ZarrVectors(path, options.column)
    return VectorSource(path, options, [part], files=part.files())


def _open_tables(path: Path, options: SourceOptions) -> VectorSource:
    return _of_tables(path, options, table_files(path) if path.is_dir() else [path])


def _open_lance(path: Path, options: SourceOptions) -> VectorSource:
    return _of_opened(path, options, lance_files(path), list(open_lance(path)))


def _of_tables(path: Path, options: SourceOptions, files: list[Path]) -> VectorSource:
    return _of_opened(path, options, files, [open_table(file) for file in files])


def _of_opened(path: Path, options: SourceOptions, files: list[Path], opened: list[TableFile]) -> VectorSource:
    tables = as_wide(opened, options.column)
    wide = next((table.vector for table in tables if isinstance(table, WideTable)), None)
    part = ColumnVectors(tables, wide or options.column)
    names = ColumnNames(tables, options.items_column)
    sequential = any(table.sequential for table in tables)
    return VectorSource(path, options, [part], files=files, names=names, sequential=sequential)


def _open_hugging_face(path: Path, options: SourceOptions) -> VectorSource:
    """Open the folder that ``save_to_disk`` of Hugging Face datasets wrote: Arrow streams that state.json lists."""
    files = [file["filename"] for file in _json_of(path / "state.json").get("_data_files", ())]
    if not files:
        raise DataError(f"{path}: its state.json lists no data files")
    return _of_tables(path, options, [below(path, str(file)) for file in files])


def _refuse_splits(path: Path, options: SourceOptions) -> VectorSource:
    splits = _json_of(path / "dataset_dict.json").get("splits", ())
    raise DataError(
        f"{path}: holds several splits of a Hugging Face dataset ({', '.join(map(str, splits))}); "
        f"name the folder of one, for example {path}/{splits[0] if splits else 'train'}"
    )


def _json_of(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(check_file(path).read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a mapping")
    return found


def _open_npy_folder(path: Path, options: SourceOptions) -> VectorSource:
    options.refuse(path, "column", "items_column")
    parts = [RawVectors(open_npy(file)) for file in natural_order(list(path.glob("*.npy")))]
    names = companion_items(path, sum(part.num_rows for part in parts))
    return VectorSource(path, options, parts, names=names)


def _open_image_embeddings(path: Path, options: SourceOptions) -> VectorSource:
    """Open the output of clip-retrieval: ``img_emb[/img_emb]_0.npy`` beside ``metadata[/metadata]_0.parquet``."""
    prefix = options.column or "img_emb"
    parts = [RawVectors(open_npy(file)) for file in _numbered(path, prefix, ".npy")]
    tables = [open_table(file) for file in _numbered(path, "metadata", ".parquet")]
    if not parts:
        raise DataError(f"{path}: has no {prefix}_*.npy to go with its metadata_*.parquet; choose with --column")
    if len(parts) != len(tables):
        raise DataError(f"{path}: has {len(parts)} {prefix}_*.npy files, but {len(tables)} metadata_*.parquet")
    for part, table in zip(parts, tables, strict=True):
        if part.num_rows != table.num_rows:
            raise DataError(f"{table.path}: has {table.num_rows} rows, but {part.path} has {part.num_rows}")
    names = ColumnNames(tables, options.items_column)
    return VectorSource(path, options, parts, names=names)


def _open_cdp(path: Path, options: SourceOptions) -> VectorSource:
    """Open ``list.txt`` (one name per row) with ``features/<model>.bin``, one file per model."""
    options.refuse(path, "items_column")
    folder = check_folder_of_files(path / "features")
    models = {file.stem: file for file in natural_order(list(folder.glob("*.bin")))}
    model = options.column or (next(iter(models)) if len(models) == 1 else None)
    if model is None or model not in models:
        raise DataError(
            f"{path}: {'several models' if options.column is None else f'no model {options.column!r}'} "
            f"in features/; choose one with --column: {', '.join(models)}"
        )
    file = models[model]
    num_rows = line_offsets(path / "list.txt", 1 << 20)[1]
    size = check_file(file).stat().st_size
    if size == 0 or num_rows == 0 or size % (4 * num_rows):
        raise DataError(
            f"{file}: {size} bytes is not a whole number of float32 for each of the {num_rows} names in list.txt"
        )
    part = open_bin(file, size // (4 * num_rows))
    names = TextNames(path / "list.txt", num_rows, as_ids=True)
    return VectorSource(path, options, [part], names=names)


def _with_items(
    path: Path, options: SourceOptions, part: RawVectors | FvecsVectors, *, sequential: bool = False
) -> VectorSource:
    names = companion_items(path.parent, part.num_rows)
    return VectorSource(path, options, [part], names=names, sequential=sequential)


def _numbered(path: Path, prefix: str, suffix: str) -> list[Path]:
    folder = check_folder_of_files(path / prefix) if isdir(path / prefix) else path
    return natural_order([p for p in folder.iterdir() if p.name.startswith(f"{prefix}_") and p.suffix == suffix])


def _has_suffix(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.suffix.lower() in suffixes


def _holds(*patterns: str) -> Callable[[Path], bool]:
    return lambda path: path.is_dir() and any(next(path.glob(pattern), None) for pattern in patterns)


FORMATS: tuple[Format, ...] = (
    Format("bin", _has_suffix(".bin"), _open_bin, ".bin (with --dim)"),
    Format("npy", _has_suffix(".npy"), _open_npy, ".npy, a folder of .npy"),
    Format("npz", _has_suffix(".npz"), _open_npz, ".npz"),
    Format("fvecs", _has_suffix(".fvecs"), _open_fvecs, ".fvecs"),
    Format("fbin", _has_suffix(".fbin"), _open_fbin, ".fbin"),
    Format("zarr", is_zarr, _open_zarr, "zarr"),
    Format(
        "tables",
        _has_suffix(*TABLE_SUFFIXES),
        _open_tables,
        ".parquet, .arrow or .feather or a folder of them (a column of lists, or f0, f1, ...), .csv",
    ),
    Format(
        "hugging_face",
        lambda path: lies_there(path / "state.json") and lies_there(path / "dataset_info.json"),
        _open_hugging_face,
        "a folder of save_to_disk",
    ),
    Format("lance", is_lance, _open_lance, "a Lance dataset"),
    Format("hugging_face_splits", lambda path: lies_there(path / "dataset_dict.json"), _refuse_splits),
    Format(
        "cdp",
        lambda path: lies_there(path / "list.txt") and _holds("features/*.bin")(path),
        _open_cdp,
        "list.txt with features/*.bin",
    ),
    Format(
        "image_embeddings",
        _holds("metadata_*.parquet", "metadata/metadata_*.parquet"),
        _open_image_embeddings,
        "img_emb_*.npy with metadata_*.parquet",
    ),
    Format("npy_folder", _holds("*.npy"), _open_npy_folder),
    Format("table_folder", _holds(*(f"*{suffix}" for suffix in FOLDER_SUFFIXES)), _open_tables),
)
