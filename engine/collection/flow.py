"""The stages of an update: rows added, rows removed, or all written anew.

added:      source -> ingest -> added -> clusters
removed:    gone -> compacted -> clusters
compaction: compacted
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.collection.steps import Added, Clusters, Compacted, Gone, Place
from engine.collection.versions import Version
from engine.flow.rows import ingest
from engine.runs.step import in_order
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.source import Source


@dataclass(frozen=True)
class AnswersFile:
    """A file of decisions that an update is to hold, and its checksum; both empty for none."""

    path: str = ""
    checksum: str = ""

    def fields(self) -> dict[str, Any]:
        """The fields of the step that reads it."""
        return {"decisions": self.checksum, "decisions_path": self.path}


def addition_stages(
    root: Path, version: Version, source: Source, settings: Settings, answers: AnswersFile
) -> list[Stage]:
    """The stages that add the rows of a source."""
    rows, held = ingest(source, settings), _on_version(root, version, source.dim)
    added = Added(rows=rows, **held)
    return in_order(Clusters(added=added, rows=rows, **answers.fields(), **held))


def removal_stages(
    root: Path, version: Version, dim: int, path: Path, digest: str, answers: AnswersFile
) -> list[Stage]:
    """The stages that remove the rows whose ids a file of this digest holds."""
    held = _on_version(root, version, dim)
    gone = Gone(digest=digest, path=str(path), **held)
    return in_order(Clusters(compacted=Compacted(gone=gone, **held), **answers.fields(), **held))


def answer_stages(root: Path, version: Version, dim: int, answers: AnswersFile) -> list[Stage]:
    """The stage that makes clusters hold what people decided."""
    return in_order(Clusters(**answers.fields(), **_on_version(root, version, dim)))


def compaction_stages(root: Path, version: Version, dim: int) -> list[Stage]:
    """The stage that writes a version in one piece."""
    return in_order(Compacted(**_on_version(root, version, dim)))


def _on_version(root: Path, version: Version, dim: int) -> dict[str, Any]:
    """The fields of a step that reads a version."""
    layers = tuple(layer.as_dict() for layer in version.layers)
    place = Place(str(root), asdict(version.kept), layers, str(version.clusters or ""))
    held = version.kept.num_rows + sum(layer.num_rows for layer in version.layers)
    return {
        "before": version.digest,
        "update": version.number + 1,
        "held": held,
        "k": version.kept.k,
        "dim": dim,
        "place": asdict(place),
    }
