"""The one reader of JSON files that a run, a store, a training, a model or a comparison owns.

An owned file is *sealed*: its key ``checksum`` covers all its other keys. The reader accepts a regular file of bounded
size whose checksum is right and whose keys have the types that its ``FileKind`` declares. A flipped bit, a missing key
or another version is an error that names the file, so it cannot change a result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import xxhash
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine.errors import DataError, ManifestMismatch
from engine.stages import Stage
from engine.storage.paths import check_file, explain_reading

MAX_JSON_BYTES = 256 << 20  # a record names every chunk and every zero vector of its task
CHECKSUM = "checksum"
VERSION = "format_version"
RESUME = "asterism resume mends it"


class Sealed(BaseModel):
    """Base of the types of owned files: no further keys, strict types, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class FileKind:
    """A kind of owned file: the type of its content, its format version, and the remedy for a damaged file.

    ``sealed``: the file has a checksum. An output of a stage has none, because the commit record holds it.
    """

    type: Any
    remedy: str
    version: int | None = None
    sealed: bool = True
    adapter: TypeAdapter[Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapter", TypeAdapter(self.type))


def seal(tree: Any, kind: FileKind) -> dict[str, Any]:
    """Return ``tree`` with the format version of its kind and a checksum over everything else."""
    versioned = dict(tree) if kind.version is None else {VERSION: kind.version, **tree}
    plain = json.loads(json.dumps(versioned))  # as a reader sees it: keys are texts, tuples are lists
    return {**plain, CHECKSUM: tree_checksum(plain)}


def read_owned(path: Path, kind: FileKind) -> dict[str, Any]:
    """Read a file of a kind and return its keys without the format version and the checksum.

    Raises ``DataError`` for a missing or damaged file, ``ManifestMismatch`` for one of another version.
    """
    tree = _parse(path, kind)
    checksum, version = tree.pop(CHECKSUM, None) if kind.sealed else None, tree.get(VERSION)
    intact = not kind.sealed or checksum == tree_checksum(tree)
    if kind.version is not None and version != kind.version and (intact or checksum is None) and type(version) is int:
        by = "an earlier version" if version < kind.version else "a later version"
        raise ManifestMismatch(
            f"{path}: written by {by} of asterism (format version {version}, this version reads {kind.version}); "
            f"use the version that wrote it, or make it again in another place"
        )
    if not intact:
        raise DataError(f"{path}: does not match its checksum: it was damaged after it was written; {kind.remedy}")
    if kind.version is not None:
        if version != kind.version or type(version) is not int:
            raise DataError(f"{path}: {VERSION}: expected {kind.version}, got {version!r}; {kind.remedy}")
        del tree[VERSION]
    check_types(path, tree, kind)
    return tree


def check_types(path: Path, tree: Any, kind: FileKind) -> None:
    """Raise ``DataError`` naming the first key of ``tree`` that is not of its type."""
    # A path need not be UTF-8. pydantic refuses the surrogates that stand for its bytes, which are of no concern here.
    text = json.dumps(tree).replace("\\ud", "\\uf")
    try:
        kind.adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise DataError(f"{path}: {_word(error)}; {kind.remedy}") from None


def tree_checksum(tree: Any) -> str:
    """Compute a checksum of plain data that does not depend on the order of keys."""
    return xxhash.xxh3_128(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _parse(path: Path, kind: FileKind) -> dict[str, Any]:
    check_file(path)
    with explain_reading(path), open(path, "rb") as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise DataError(f"{path}: is larger than {MAX_JSON_BYTES:,} bytes, as no such file is; {kind.remedy}")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = f"not valid JSON ({error})"
        raise DataError(f"{path}: {what}; it was damaged after it was written; {kind.remedy}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: holds a {type(tree).__name__}, expected keys and values; {kind.remedy}")
    return tree


def _word(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "the file"
    got = "" if first["type"] == "missing" else f", got {str(first['input'])[:60]!r}"
    return f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}{got}"


Text = Annotated[str, Field(max_length=1 << 16)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Rows = Annotated[int, Field(ge=0, le=2**40)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class SourceFile(Sealed):
    """The source in a run's manifest; see ``engine.steps.source.Source``."""

    path: Text
    spec: dict[str, Any]
    num_rows: Rows
    dim: Count
    item_bytes: Count
    digest: Text
    store: Text | None
    stats: list[tuple[Text, Count, int]]
    sequential: bool
    zero_vectors: Literal["error", "drop", "singleton"] | None
    version: Text = ""


class RequestFile(Sealed):
    """What a run was asked; see ``engine.commands.request.Request``."""

    features: Text
    settings: dict[str, Any]
    source: SourceFile
    model: Text | None = None
    labels: Text | None = None
    knn_graph: Text | None = None
    dim: Count | None = None
    column: Text | None = None
    items_column: Text | None = None
    bits: Text | None = None
    labels_column: Text | None = None
    decisions: Text | None = None
    items_root: list[Text] | None = None
    out: Text | None = None


def _planned(stage: Stage) -> Stage:
    if not stage.digest or not stage.block_rows:
        raise ValueError("a planned stage has a digest and a block of rows")
    return stage


PlannedStage = Annotated[Stage, AfterValidator(_planned)]


class PlanFile(Sealed):
    """The plan of a run."""

    kind: Text
    stages: list[PlannedStage]
    facts: dict[str, Any]


class RunFile(Sealed):
    """A run's manifest."""

    kind: Literal["run", "store", "training", "update"]
    state: Literal["running", "finished"]
    request: RequestFile
    plan: PlanFile


class MarkFile(Sealed):
    """The mark of a stage whose outputs were deleted; it has no content."""


class ProgressFile(Sealed):
    """The last report of a long task."""

    fraction: float
    text: Text


RUN = FileKind(
    RunFile,
    "run the command that made this folder again, with the same --out: it finds what is committed and writes this file "
    "anew",
    version=2,
)
STAGE = FileKind(PlannedStage, RESUME, version=2)
MARK = FileKind(MarkFile, RESUME)
PROGRESS = FileKind(ProgressFile, RESUME)
