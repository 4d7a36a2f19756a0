"""Updates of a collection: rows are added or removed, and what was begun is taken up again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.collection.flow import addition_stages, compaction_stages, removal_stages
from engine.collection.kept import Kept, kept_by_run
from engine.collection.steps import rows_named
from engine.collection.versions import Version, current_version, delete_old, unfinished_update, update_folder
from engine.commands.execution import execute
from engine.commands.preparation import Prepared
from engine.commands.request import Request
from engine.commands.resolution import resolve
from engine.commands.resources import Resources, choose_device, count_threads, count_workers, memory_budget, on_cluster
from engine.commands.run_folder import open_run, refuse_others
from engine.errors import ConfigError, DataError
from engine.runs.plan import make_plan
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.decisions import DecisionFile
from engine.steps.source import Source, describe_source, file_stats
from engine.storage import manifest
from engine.storage.cache import local_copy
from engine.storage.context import stage_facts
from engine.storage.decisions import DECISIONS_FILE
from engine.storage.formats.registry import open_source
from engine.storage.paths import check_file
from engine.storage.places import open_place
from engine.storage.remote import absolute, is_url
from engine.storage.row_ids import RowIds

MOST_LAYERS = 16
COMPACTION = "+compaction"  # after the digest of the update before
MOST_GROWTH = 0.25  # share of the full run's rows that updates add before a full run is due
FAR_SHARE = 0.25  # share of an update's rows far from all others, from which the data have drifted


@dataclass(frozen=True)
class Update:
    """What an update did: the version's number, its rows and clusters, and how many clusters met which event.

    ``due``: why a full run is due, or an empty text.
    """

    number: int
    rows: int
    clusters: int
    added: int
    removed: int
    lineage: dict[str, int]
    due: str


def open_collection(root: str | Path) -> tuple[Path, Version]:
    """Open the last version of a run's collection. Raises ``DataError`` or ``ConfigError`` if it has none."""
    here = _local(root)
    return here, current_version(here, lambda: kept_of(here))


def kept_of(here: Path) -> Kept:
    """What the full run in a folder keeps."""
    refuse_others(here)
    held = manifest.read_run(here)
    if held["state"] != "finished":
        raise DataError(f"{here} is not finished: asterism resume {here}")
    request = replace(Request.from_dict(held["request"]), labels=None)
    settings, _, build = resolve("run", request, Source(**held["request"]["source"]))
    return kept_by_run(here, build(settings), settings)


def update(
    root: str | Path,
    *,
    features: str | Path | None = None,
    remove: str | Path | None = None,
    resources: Resources | None = None,
    dim: int | None = None,
    column: str | None = None,
    items_column: str | None = None,
    progress: bool = True,
) -> Update:
    """Add the rows of ``features`` to a run, or remove those whose ids a file names, one to a line.

    An update that was killed is taken up by the same call. Raises ``ConfigError`` for one that an unfinished update
    stands in the way of, or that is done already, and ``DataError`` for rows that the collection cannot take.
    """
    if (features is None) == (remove is None):
        raise ConfigError("an update adds rows (--features) or removes some (--remove): give one of both")
    here = _local(root)
    refuse_others(here)
    request, settings = _request(here, dim, column, items_column)
    if features is not None:
        source = _addition_source(here, features, request)
    else:
        assert remove is not None
        source = _removal_source(Path(absolute(remove)))
    request, resources = replace(request, features=source.path), resources or Resources()
    _check_answers(here, request)
    with open_place(here).locked():
        version = current_version(here, lambda: kept_of(here))
        begun = unfinished_update(here)
        if begun is not None and begun[1]["request"]["source"]["digest"].endswith(COMPACTION):
            version, begun = _compact(here, version, request, source, resources, progress), None
        delete_old(here, version)  # which a kill may have kept the last update from
        _check_order(here, begun, version, source)
        if features is not None:
            if begun is None:
                _check_ids(source, request, version.ids(here))  # before anything is written
            stages = addition_stages(here, version, source, settings)
        else:
            if begun is None:
                rows_named(Path(source.path), version.ids(here))  # refuses before anything is written
            stages = removal_stages(here, version, _dim(here), Path(source.path), source.version)
        number = version.number + 1
        try:
            _run(here, number, request, source, stages, resources, progress)
        except DataError:
            if begun is None:  # rows that cannot be taken stand in the way of no other update
                shutil.rmtree(update_folder(here, number), ignore_errors=True)
            raise
        version = current_version(here, lambda: kept_of(here))
        done = _told(here, number, version, added=features is not None)
        if len(version.layers) > MOST_LAYERS:
            version = _compact(here, version, request, source, resources, progress)
        delete_old(here, version)
    return done


def _addition_source(here: Path, features: str | Path, request: Request) -> Source:
    """Describe the vectors of an update; raises ``ConfigError`` for a store, ``DataError`` for another dimension."""
    source = describe_source(features, dim=request.dim, column=request.column, items_column=request.items_column)
    if source.store is not None:
        raise ConfigError(f"{features} is a store; an update takes the vectors themselves")
    if source.dim != _dim(here):
        raise DataError(f"{features}: vectors of {source.dim} dimensions, the collection's have {_dim(here)}")
    return source


def _check_answers(here: Path, request: Request) -> None:
    """Refuse an update of a run whose reviewer has given answers that its clusters do not hold yet."""
    path = request.decisions or str(here / DECISIONS_FILE)
    if not is_url(path) and not Path(path).exists():
        return
    stages = manifest.read_run(here)["plan"]["stages"]
    held = next((stage["params"]["decisions"] for stage in stages if stage["name"] == "answers"), None)
    found = DecisionFile.describe(path)
    assert found is not None
    if found.digest != held:
        raise ConfigError(
            f"{path}: holds answers that the clusters of {here} do not hold yet, and after an update they could not be "
            f"applied; apply them in asterism review {here}, or run again with --decisions {path}, then update"
        )


def _check_ids(source: Source, request: Request, known: RowIds) -> None:
    """Refuse new rows without an id, of an id that is there already, or with ids of another kind than ``known``."""
    ids = open_source(local_copy(source.path), dim=request.dim, column=request.column).ids()
    if ids is not None:
        known.joined(RowIds(ids, source.path))
    elif known.are_texts:
        raise DataError(f"{source.path}: no column id, but the rows of the collection have texts as ids")


def _compact(
    here: Path, version: Version, request: Request, source: Source, resources: Resources, progress: bool
) -> Version:
    """Write a version in one piece, as the next version."""
    asked = replace(source, digest=f"{version.source}{COMPACTION}")
    _run(here, version.number + 1, request, asked, compaction_stages(here, version, _dim(here)), resources, progress)
    return current_version(here, lambda: kept_of(here))


def _local(root: str | Path) -> Path:
    if is_url(root):
        raise ConfigError(f"{root}: a collection lies in a folder; copy the run to one")
    return open_run(root)


def _request(here: Path, dim: int | None, column: str | None, items_column: str | None) -> tuple[Request, Settings]:
    """What the run was asked, but for the columns given, and its settings."""
    held = Request.from_dict(manifest.read_run(here)["request"])
    request = replace(
        held,
        labels=None,
        knn_graph=None,
        dim=dim or held.dim,
        column=column or held.column,
        items_column=items_column or held.items_column,
    )
    return request, request.settings


def _dim(here: Path) -> int:
    return int(manifest.read_run(here)["request"]["source"]["dim"])


def _removal_source(path: Path) -> Source:
    """A file of ids as the source of an update. Its ids are not kept."""
    path = check_file(path)
    digest = manifest.file_checksum(path)
    return Source(str(path), {"path": str(path)}, 0, 0, 0, f"remove:{digest}", None, file_stats([path]), version=digest)


def _check_order(here: Path, begun: tuple[int, dict[str, Any]] | None, version: Version, source: Source) -> None:
    """Refuse an update that stands behind an unfinished one, and one that is done already."""
    if begun is not None:
        asked = begun[1]["request"]["source"]
        if asked["digest"] != source.digest:
            raise ConfigError(
                f"{update_folder(here, begun[0])}: an update by {asked['path']} is not finished; give it again, which "
                f"takes it up, or delete that folder to give it up"
            )
    elif version.source.removesuffix(COMPACTION) == source.digest:
        raise ConfigError(f"{source.path}: the last update of {here} was by this very content; it is done already")


def _run(
    here: Path,
    number: int,
    request: Request,
    source: Source,
    stages: Sequence[Stage],
    resources: Resources,
    progress: bool,
) -> None:
    """Run an update's stages in its folder, or what is left of them."""
    place = open_place(update_folder(here, number))
    workers, threads = count_workers(resources), count_threads(resources)
    plan = make_plan(
        "update",
        stages,
        source_digest=source.digest,
        memory_bytes=memory_budget(resources),
        free_disk_bytes=_free(here),
        block_rows=resources.block_rows,
        workers=workers,
        threads=threads,
        memory_of_each=on_cluster(resources),
        facts={"num_rows": source.num_rows, "update": number},
    )
    prepared = Prepared("update", place, request, source, None, plan, resources, choose_device(resources), threads)
    execute(prepared, progress=progress)


def _free(here: Path) -> int:
    return shutil.disk_usage(here).free


def _told(here: Path, number: int, version: Version, *, added: bool) -> Update:
    """What the committed records say of an update."""
    folder = update_folder(here, number)
    stages = {stage["name"]: stage for stage in manifest.read_run(folder)["plan"]["stages"]}

    def facts(name: str) -> dict[str, Any]:
        return stage_facts(folder / f"{name}-{stages[name]['digest'][:12]}")[0]

    clusters, first = facts("clusters"), facts("added" if added else "compacted")
    later = sum(layer.num_rows for layer in version.layers)
    due = ""
    if added and first["far_share"] > FAR_SHARE:
        due = (
            f"the data have drifted: {first['far_share']:.0%} of the new rows lie as far from all others as one in 20 "
            f"rows of the full run did"
        )
    elif later > MOST_GROWTH * version.kept.num_rows:
        due = f"{later:,} rows were added to {version.kept.num_rows:,}"
    return Update(
        number,
        clusters["rows"],
        clusters["clusters"],
        first["rows"] if added else 0,
        0 if added else first["removed"],
        clusters["lineage"],
        due,
    )
