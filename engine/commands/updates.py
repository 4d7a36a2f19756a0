"""Updates of a collection: rows are added or removed, and what was begun is taken up again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.answers import without_rows
from engine.collection.flow import AnswersFile, addition_stages, answer_stages, compaction_stages, removal_stages
from engine.collection.steps import rows_named
from engine.collection.versions import (
    COMPACTION,
    Version,
    current_version,
    delete_old,
    is_compaction,
    unfinished_update,
    update_folder,
)
from engine.commands.configuration import read_settings
from engine.commands.execution import execute
from engine.commands.opening import kept_of, local_run
from engine.commands.preparation import Prepared
from engine.commands.reporting import REPORT_FILE
from engine.commands.request import Request
from engine.commands.resources import Resources, choose_device, count_threads, count_workers, memory_budget, on_cluster
from engine.commands.run_folder import refuse_others
from engine.errors import ConfigError, DataError
from engine.runs.plan import make_plan
from engine.stages import Stage
from engine.steps.decisions import settle
from engine.steps.source import Source, describe_source, file_stats
from engine.storage import manifest
from engine.storage.cache import local_copy
from engine.storage.context import stage_facts
from engine.storage.decisions import DECISIONS_FILE, read_decisions, write_decisions
from engine.storage.formats.packed_bits import Bits
from engine.storage.formats.registry import open_source
from engine.storage.paths import check_file
from engine.storage.places import GIVEN_FOLDER, open_place
from engine.storage.remote import absolute, is_url
from engine.storage.row_ids import RowIds

MOST_LAYERS = 16
REMOVAL, ANSWERS = "remove:", "answers:"  # before the digest of a file of ids, and of decisions


@dataclass(frozen=True)
class Update:
    """What an update did: the version's number, its rows and clusters, and how many clusters met which event.

    ``copies``: how many of the rows added have the very vector of a row that was there. ``due``: why a full run is due,
    or an empty text.
    """

    number: int
    rows: int
    clusters: int
    added: int
    copies: int
    removed: int
    lineage: dict[str, int]
    due: str


def update(
    root: str | Path,
    *,
    features: str | Path | None = None,
    remove: str | Path | None = None,
    decisions: str | Path | None = None,
    resources: Resources | None = None,
    dim: int | None = None,
    column: str | None = None,
    items_column: str | None = None,
    bits: Bits | None = None,
    zero_vectors: str | None = None,
    bad_rows: str | None = None,
    progress: bool = True,
) -> Update:
    """Add the rows of ``features`` to a run, or remove those whose ids a file names, one to a line, or neither.

    ``decisions``: a file of decisions, all of which hold then; by default the run's own, or that of its review.
    ``zero_vectors``, ``bad_rows``: as in the settings ``ingest``; default: as in the run. An update that was killed is
    taken up by the same call. Raises ``ConfigError`` for one that an unfinished update stands in the way of, or that is
    done already, and ``DataError`` for rows that the collection cannot take.
    """
    if (features is not None and remove is not None) or (features is None and remove is None and decisions is None):
        raise ConfigError(
            "an update adds rows (--features), or removes some (--remove), or applies answers (--decisions) alone"
        )
    here = local_run(root)
    refuse_others(here)
    given = {"dim": dim, "column": column, "items_column": items_column, "bits": bits}
    request = _request(here, given, {"zero_vectors": zero_vectors, "bad_rows": bad_rows})
    if features is not None:
        source = _addition_source(here, features, request)
    elif remove is not None:
        source = _file_source(Path(absolute(remove)), REMOVAL)
    else:
        assert decisions is not None
        source = _file_source(local_copy(decisions), ANSWERS)
    if decisions is not None:
        check_file(local_copy(decisions))
        request = replace(request, decisions=absolute(decisions))
    return _carry_out(here, replace(request, features=source.path), source, resources or Resources(), progress)


def resume_update(here: Path, resources: Resources | None = None, *, progress: bool = True) -> Update:
    """Take up the update of a collection that was begun and is not finished; tell of the last one if all are.

    Raises as ``update``.
    """
    begun, resources = unfinished_update(here), resources or Resources()
    if begun is None:
        return _told(here, current_version(here, lambda: kept_of(here)))
    request = Request.from_dict(begun[1]["request"])
    if is_compaction(begun[1]):
        with open_place(here).locked():
            version = current_version(here, lambda: kept_of(here))
            version = _compact(here, version, request, Source(**begun[1]["request"]["source"]), resources, progress)
            delete_old(here, version)
            return _told(here, version)
    digest = str(begun[1]["request"]["source"]["digest"])
    kind = next((each for each in (REMOVAL, ANSWERS) if digest.startswith(each)), None)
    if kind is None:
        source = _addition_source(here, request.features, request)
    else:
        source = _file_source(local_copy(request.features), kind)
    return _carry_out(here, request, source, resources, progress)


def _carry_out(here: Path, request: Request, source: Source, resources: Resources, progress: bool) -> Update:
    """Run an update, or what is left of it, and what it makes due."""
    removal, alone = source.digest.startswith(REMOVAL), source.digest.startswith(ANSWERS)
    with open_place(here).locked():
        version = current_version(here, lambda: kept_of(here))
        begun = unfinished_update(here)
        if begun is not None and is_compaction(begun[1]):
            version, begun = _compact(here, version, request, source, resources, progress), None
        delete_old(here, version, source.path)  # which a kill may have kept the last update from
        _check_order(here, begun, version, source)
        _forget_answers(here, version)
        answers = _answers(here, request)
        if alone:
            stages = answer_stages(here, version, _dim(here), answers)
        elif not removal:
            if begun is None:
                _check_new(source, request, version, here)  # before anything is written
            stages = addition_stages(here, version, source, request.settings, answers)
        else:
            if begun is None:
                rows_named(Path(source.path), version.ids(here))  # refuses before anything is written
            stages = removal_stages(here, version, _dim(here), Path(source.path), source.version, answers)
        number = version.number + 1
        (here / REPORT_FILE).unlink(missing_ok=True)  # it shows the version before
        try:
            _run(here, number, request, source, stages, resources, progress)
        except DataError:
            if begun is None:  # rows that cannot be taken stand in the way of no other update
                shutil.rmtree(update_folder(here, number), ignore_errors=True)
            raise
        version = current_version(here, lambda: kept_of(here))
        done = _told(here, version)
        if len(version.layers) > MOST_LAYERS:
            version = _compact(here, version, request, source, resources, progress)
        delete_old(here, version)
        _forget_answers(here, version)
        if Path(source.path).parent == here / GIVEN_FOLDER:
            Path(source.path).unlink(missing_ok=True)  # the update holds its rows now
    return done


def _addition_source(here: Path, features: str | Path, request: Request) -> Source:
    """Describe the vectors of an update; raises ``ConfigError`` for a store, ``DataError`` for another dimension."""
    source = describe_source(
        features, dim=request.dim, column=request.column, items_column=request.items_column, bits=request.bits
    )
    if source.store is not None:
        raise ConfigError(f"{features} is a store; an update takes the vectors themselves")
    if source.dim != _dim(here):
        raise DataError(f"{features}: vectors of {source.dim} dimensions, the collection's have {_dim(here)}")
    return source


def _answers(here: Path, request: Request) -> AnswersFile:
    """The file of decisions that an update is to hold: the one given, else the run's own, else a review's.

    Raises ``DataError`` for one that contradicts itself.
    """
    place = request.decisions or str(here / DECISIONS_FILE)
    if not is_url(place) and not Path(place).exists():
        return AnswersFile()  # those that the collection holds still hold
    path = str(local_copy(place))
    settle(read_decisions(path), path)
    return AnswersFile(path, manifest.file_checksum(Path(path)))


def _forget_answers(here: Path, version: Version) -> None:
    """Take decisions about rows that were removed out of the file that a review wrote in the run's folder."""
    path = here / DECISIONS_FILE
    if not version.kept.removed or not path.exists():
        return
    told = read_decisions(path)
    left = without_rows(told, version.ids(here))
    if len(left) < len(told):
        write_decisions(path, left)


def _check_new(source: Source, request: Request, version: Version, here: Path) -> None:
    """Refuse new rows without an id, of an id that is there already, or with ids of another kind; or a file twice.

    Rows without ids cannot be told from those that are there, so a file of them whose rows are all there is refused.
    """
    given = local_copy(source.path)
    ids, known = open_source(given, dim=request.dim, column=request.column, bits=request.bits).ids(), version.ids(here)
    if ids is not None:
        known.joined(RowIds(ids, source.path))
        return
    if version.kept.facts.get("named", known.are_texts):
        raise DataError(f"{source.path}: no column id, but the rows of the collection have ids of their source")
    twice = next((each for each in version.since().contents if each.digest == source.digest), None)
    if twice is not None:
        by = f"by update {twice.update}" if twice.update else "from the run on"
        raise ConfigError(
            f"{source.path}: this very content is in the collection {by}, as rows {twice.start:,} to "
            f"{twice.stop - 1:,}; rows without ids are not added twice"
        )


def _compact(
    here: Path, version: Version, request: Request, source: Source, resources: Resources, progress: bool
) -> Version:
    """Write a version in one piece, as the next version."""
    asked = replace(source, digest=f"{version.source}{COMPACTION}")
    _run(here, version.number + 1, request, asked, compaction_stages(here, version, _dim(here)), resources, progress)
    return current_version(here, lambda: kept_of(here))


def _request(here: Path, given: dict[str, Any], rows: dict[str, Any]) -> Request:
    """What the run was asked, but for what is given now: how to read the vectors, and settings of ``ingest``."""
    held = Request.from_dict(manifest.read_run(here)["request"])
    told = {name: value for name, value in given.items() if value is not None}
    settings = held.settings.model_dump(mode="json", exclude_unset=True)
    settings["ingest"] = {**settings.get("ingest", {}), **{name: value for name, value in rows.items() if value}}
    return replace(held, labels=None, knn_graph=None, settings=read_settings(settings), **told)


def _dim(here: Path) -> int:
    return int(manifest.read_run(here)["request"]["source"]["dim"])


def _file_source(path: Path, kind: str) -> Source:
    """A file of ids, or of decisions, as the source of an update. What it names is not kept."""
    path = check_file(path)
    digest = manifest.file_checksum(path)
    return Source(str(path), {"path": str(path)}, 0, 0, 0, f"{kind}{digest}", None, file_stats([path]), version=digest)


def _check_order(here: Path, begun: tuple[int, dict[str, Any]] | None, version: Version, source: Source) -> None:
    """Refuse an update that stands behind an unfinished one, and one that is done already."""
    if begun is not None:
        asked = begun[1]["request"]["source"]
        if asked["digest"] != source.digest:
            raise ConfigError(
                f"{update_folder(here, begun[0])}: an update by {asked['path']} is not finished; asterism resume "
                f"{here} takes it up, or delete that folder to give it up"
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


def _told(here: Path, version: Version) -> Update:
    """What the committed records say of the last update."""
    folder = update_folder(here, version.number)
    stages = {stage["name"]: stage for stage in manifest.read_run(folder)["plan"]["stages"]}

    def facts(name: str) -> dict[str, Any]:
        return stage_facts(folder / f"{name}-{stages[name]['digest'][:12]}")[0] if name in stages else {}

    labels = version.labels(here)
    added, compacted = facts("added"), facts("compacted")
    return Update(
        number=version.number,
        rows=len(labels),
        clusters=len(np.unique(labels[labels >= 0])),
        added=added.get("rows", 0),
        copies=added.get("copies", 0),
        removed=compacted.get("removed", 0),
        lineage=facts("clusters").get("lineage", {}),
        due=version.since().due,
    )
