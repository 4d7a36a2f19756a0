"""The one reader of the JSON files that a run, a store, a training, a model or a comparison owns.

Each such file is *sealed*: its key ``checksum`` covers all its other keys. A file is used only if it is a regular file
of bounded size, its checksum fits, and every key has the type that its ``Kind`` declares. So a flipped bit, a missing
key and a file of another version each end in one sentence that names the file, and in no result.
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
    """Base of what a file holds: no further keys, no number for a text, nothing that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Kind:
    """A kind of file: the type of what it holds, its format version, and what to do about a damaged one.

    ``sealed``: whether the file has a checksum of its own. A stage's output has none: its stage's record holds it.
    """

    type: Any
    remedy: str
    version: int | None = None
    sealed: bool = True
    adapter: TypeAdapter[Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapter", TypeAdapter(self.type))


def seal(tree: Any, kind: Kind) -> dict[str, Any]:
    """Return what is written for ``tree``: with the format version of its kind, and a checksum over all of it."""
    versioned = dict(tree) if kind.version is None else {VERSION: kind.version, **tree}
    plain = json.loads(json.dumps(versioned))  # keys become texts, tuples lists, as a reader will see them
    return {**plain, CHECKSUM: tree_checksum(plain)}


def read_owned(path: Path, kind: Kind) -> dict[str, Any]:
    """Read a file of a kind: its keys without the format version and the checksum.

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


def check_types(path: Path, tree: Any, kind: Kind) -> None:
    """Raise ``DataError`` naming the first key of ``tree`` that is not of its type."""
    # A path need not be UTF-8: what stands for its bytes is no text to pydantic, and says nothing of the types.
    text = json.dumps(tree).replace("\\ud", "\\uf")
    try:
        kind.adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise DataError(f"{path}: {_word(error)}; {kind.remedy}") from None


def tree_checksum(tree: Any) -> str:
    """Checksum plain data, whatever the order of its keys."""
    return xxhash.xxh3_128(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _parse(path: Path, kind: Kind) -> dict[str, Any]:
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
    """What a run's manifest says of its source; see ``engine.steps.source.Source``."""

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
    """What a run was asked; see ``engine.api.Request``."""

    features: Text
    settings: dict[str, Any]
    source: SourceFile
    model: Text | None = None
    labels: Text | None = None
    knn_graph: Text | None = None
    dim: Count | None = None
    column: Text | None = None
    items_column: Text | None = None
    labels_column: Text | None = None
    items_root: list[Text] | None = None


def _planned(stage: Stage) -> Stage:
    if not stage.digest or not stage.block_rows:
        raise ValueError("a planned stage has a digest and a block of rows")
    return stage


PlannedStage = Annotated[Stage, AfterValidator(_planned)]


class PlanFile(Sealed):
    """The plan that a run was made by."""

    kind: Text
    stages: list[PlannedStage]
    facts: dict[str, Any]


class RunFile(Sealed):
    """A run's manifest."""

    kind: Literal["run", "store", "training"]
    state: Literal["running", "finished"]
    request: RequestFile
    plan: PlanFile


class MarkFile(Sealed):
    """The mark of a stage whose outputs were deleted: nothing."""


class ProgressFile(Sealed):
    """What a long task last said."""

    fraction: float
    text: Text


RUN = Kind(
    RunFile,
    "run the command that made this folder again, with the same --out: it finds what is committed and writes this file "
    "anew",
    version=2,
)
STAGE = Kind(PlannedStage, RESUME, version=2)
MARK = Kind(MarkFile, RESUME)
PROGRESS = Kind(ProgressFile, RESUME)
