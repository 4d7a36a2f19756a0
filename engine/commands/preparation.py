"""The plan of a request, checked before anything runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.collection.versions import finished_updates
from engine.commands.request import Kind, Request
from engine.commands.resolution import resolve
from engine.commands.resources import Resources, choose_device, count_threads, count_workers, memory_budget, on_cluster
from engine.commands.trained_model import check_model_folder
from engine.errors import DataError, DiskBudgetExceeded, ManifestMismatch, MemoryBudgetExceeded
from engine.methods.model_card import Model
from engine.runs.plan import Plan, largest_fitting, make_plan, stage_digests
from engine.runs.runner import check_folder
from engine.sections import fingerprint
from engine.settings import Settings
from engine.steps.source import Source, describe_source
from engine.storage import manifest
from engine.storage.mappings import check_limit
from engine.storage.outputs import out_folder
from engine.storage.places import Place, open_place


@dataclass(frozen=True)
class Prepared:
    """A plan with what it was made from; nothing has run yet."""

    kind: Kind
    place: Place
    request: Request
    source: Source
    model: Model | None
    plan: Plan
    resources: Resources
    device: str
    threads: int

    @property
    def root(self) -> Path:
        """The run's folder on this host."""
        return self.place.root


def prepare(
    kind: Kind, root: str | Path, request: Request, resources: Resources | None = None, *, mends: bool = False
) -> Prepared:
    """Check the request and make its plan; writes nothing. Raises ``EngineError`` for what cannot work.

    ``mends``: the folder may be a collection's, if the plan is the one that its full run had.
    """
    place, resources = open_place(out_folder(root)), resources or Resources()
    place.refresh()
    root = place.root
    updated = bool(finished_updates(root))
    if updated and not mends:
        raise _would_lose(place)
    held = _known_request(root)
    source = describe_source(
        request.features,
        dim=request.dim,
        column=request.column,
        items_column=request.items_column,
        bits=request.bits,
        known=held.get("source"),
    )
    settings, model, build = resolve(kind, request, source)
    workers = count_workers(resources)
    threads = count_threads(resources)
    memory_bytes = memory_budget(resources)
    free_disk_bytes = _free_disk(root)

    def plan_at(settings: Settings) -> Plan:
        return make_plan(
            kind,
            build(settings),
            source_digest=source.digest,
            memory_bytes=memory_bytes,
            free_disk_bytes=free_disk_bytes,
            block_rows=resources.block_rows,
            workers=workers,
            threads=threads,
            memory_of_each=on_cluster(resources),
            facts={"num_rows": source.num_rows, "dim": source.dim, "method": settings.method}
            | ({"model_k": model.k} if model is not None else {}),
        )

    try:
        plan = plan_at(settings)
    except (MemoryBudgetExceeded, DiskBudgetExceeded) as error:
        k = largest_fitting(lambda k: _fits(plan_at, settings.with_k(k)), min(settings.knn.k, source.num_rows - 1))
        raise type(error)(f"{error}" + (f", or lower --set knn.k={k}" if k else "")) from None
    if updated and [stage.digest for stage in plan.stages] != [stage["digest"] for stage in _known_stages(root)]:
        raise _would_lose(place)
    check_limit(source.num_rows)
    check_folder(place, plan, {"source": source.as_dict()})
    if kind == "training":
        check_model_folder(request, place)
    return Prepared(kind, place, request, source, model, plan, resources, choose_device(resources), threads)


def describe_work(kind: Kind, request: Request) -> str:
    """Fingerprint the stages of a training or run; a model that is not trained yet counts as its default network."""
    source = describe_source(request.features, dim=request.dim, column=request.column, bits=request.bits)
    settings, _, build = resolve(kind, request, source, untrained=kind == "run")
    return fingerprint(stage_digests(build(settings), source.digest))


def _known_request(root: Path) -> dict[str, Any]:
    """Return the request that a folder keeps; an empty one if its manifest is missing or damaged."""
    try:
        return dict(manifest.read_run(root)["request"])
    except DataError:  # ``check_folder`` says what can be done
        return {}


def _known_stages(root: Path) -> list[dict[str, Any]]:
    return list(manifest.read_run(root)["plan"]["stages"])


def _would_lose(place: Place) -> ManifestMismatch:
    return ManifestMismatch(
        f"{place} is a collection with updates, which another run there would lose: choose another --out, or go on "
        f"with asterism update {place}; nothing was changed"
    )


def _fits(plan_at: Callable[[Settings], Plan], settings: Settings) -> bool:
    try:
        plan_at(settings)
    except (MemoryBudgetExceeded, DiskBudgetExceeded):
        return False
    return True


def _free_disk(root: Path) -> int:
    """Count the free bytes where the run goes, with those that it has already written."""
    place = next(parent for parent in [root, *root.parents] if parent.exists())
    written = manifest.bytes_below(root) if (root / manifest.RUN_FILE).is_file() else 0
    return shutil.disk_usage(place).free + written
