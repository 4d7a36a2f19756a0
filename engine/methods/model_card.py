"""The card of a trained model, ``model.json``: what the model is, and how its scores are partitioned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import DataError
from engine.partitions.base import OperatingPoint
from engine.partitions.settings import PartitionName
from engine.sections import fingerprint
from engine.storage import manifest
from engine.storage.owned import Digest, FileKind, Sealed, Text, check_types, read_owned
from engine.storage.paths import check_file, check_folder_of_files, explain_reading
from engine.version import __version__

MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


class ChosenParameters(BaseModel):
    """The parameters of a baseline that training chose."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    rows_per_cluster: Annotated[float, Field(gt=0)] = 1.0
    distance: Annotated[float, Field(gt=0)] = 1.0
    min_rows: Annotated[int, Field(ge=1)] = 1
    selection: Literal["eom", "leaf"] = "eom"


class Nature(BaseModel):
    """What a model is, as its runs need to know it; further facts are for people.

    ``network``: the settings of its networks. ``point``: a baseline's parameters. ``shrinkage``: of the metric that the
    model has learned, ``None`` without one. ``second_graph``: whether its scores are of two graphs, one in the metric
    and one of the vectors as they are. ``link_pass``, ``min_probability``: how GCN-V and GCN-E link. ``neighbors``,
    ``delta``, ``eta``: how FC-ES walks and what FC-ESER takes back.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, populate_by_name=True)

    network: dict[str, Any] = {}
    point: ChosenParameters = ChosenParameters()
    min_similarity: Annotated[float, Field(ge=-1.01, le=1.01)] = 0.0
    shrinkage: Annotated[float, Field(ge=0)] | None = None
    second_graph: bool = False
    neighbors: Annotated[int, Field(ge=1, le=80)] = 80
    delta: Annotated[float, Field(ge=0, le=1)] = 0.0
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    link_pass: Annotated[Literal["vectors", "embedded"], Field(alias="pass")] = "vectors"

    def as_facts(self) -> dict[str, Any]:
        """Return what was said of the model, under the names that ``model.json`` has for it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def lacks(self, names: tuple[str, ...]) -> list[str]:
        """Return which of these fields nothing was said of, under their names in ``model.json``."""
        return [type(self).model_fields[name].alias or name for name in names if name not in self.model_fields_set]


class ModelFile(Sealed):
    """What ``model.json`` holds."""

    engine_version: Text
    method: Text
    dim: Annotated[int, Field(ge=1, le=1 << 24)]
    k: Annotated[int, Field(ge=1, le=1024)]
    settings: dict[str, Any]
    operating_points: dict[PartitionName, OperatingPoint]
    preferred: PartitionName | Literal["own"]
    weights_checksum: Digest
    facts: Nature


MODEL = FileKind(ModelFile, "train the model, or copy it, again", version=2)


@dataclass(frozen=True)
class Model:
    """A trained model's folder, or URL: ``model.json`` and ``model.safetensors``; ``digest`` covers both."""

    folder: str
    method: str
    dim: int
    k: int
    digest: str
    operating_points: Mapping[str, OperatingPoint]  # by the partition's name
    preferred: str
    nature: Nature

    @property
    def projects(self) -> bool:
        """Whether it has learned a metric, in which vectors are projected first."""
        return self.nature.shrinkage is not None

    @property
    def weights(self) -> str:
        """Path of the file that holds the weights."""
        return f"{self.folder}/{WEIGHTS_FILE}"


def write_model(
    folder: Path,
    weights: bytes,
    *,
    method: str,
    dim: int,
    k: int,
    settings: Mapping[str, Any],
    operating_points: Mapping[str, Any],
    preferred: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a model's two files, as ``read_model`` reads them."""
    manifest.write_atomic(folder / WEIGHTS_FILE, lambda stream: stream.write(weights))
    tree = {
        "engine_version": __version__,
        "method": method,
        "dim": dim,
        "k": k,
        "settings": settings,
        "operating_points": operating_points,
        "preferred": preferred,
        "weights_checksum": manifest.file_checksum(folder / WEIGHTS_FILE),
        "facts": facts,
    }
    check_types(folder / MODEL_FILE, tree, MODEL)
    manifest.write_owned(folder / MODEL_FILE, MODEL, tree)


def read_model(folder: str | Path) -> Model:
    """Open a model's folder.

    Raises ``DataError`` for a folder that is no model or is damaged, ``ManifestMismatch`` for one of another format.
    """
    folder = check_folder_of_files(Path(folder).absolute(), "model")
    if not os.path.lexists(folder / MODEL_FILE) or not os.path.lexists(folder / WEIGHTS_FILE):
        raise DataError(
            f"{folder} holds no model: {MODEL_FILE} and {WEIGHTS_FILE} are expected; asterism train makes them"
        )
    tree = read_owned(folder / MODEL_FILE, MODEL)
    card = ModelFile.model_validate(tree)
    check_file(folder / WEIGHTS_FILE)
    with explain_reading(folder / WEIGHTS_FILE):
        weights = manifest.file_checksum(folder / WEIGHTS_FILE)
    if weights != card.weights_checksum:
        raise DataError(f"{folder / WEIGHTS_FILE} does not match the checksum in {MODEL_FILE}; train or copy it again")
    return Model(
        folder=str(folder),
        method=card.method,
        dim=card.dim,
        k=card.k,
        digest=fingerprint([card.method, tree["settings"], tree["operating_points"], weights]),
        operating_points={str(name): point for name, point in card.operating_points.items()},
        preferred=card.preferred,
        nature=card.facts,
    )
