"""The model that a finished training leaves: a small folder beside the run folder in which the training works."""

from __future__ import annotations

import tempfile
from pathlib import Path

from engine.commands.model_page import PAGE_FILE, learned_from, render_page
from engine.commands.request import Request
from engine.errors import ConfigError, ManifestMismatch
from engine.methods import model_card
from engine.methods.fitting import FITTED_WEIGHTS
from engine.methods.registry import METHODS
from engine.runs.plan import Plan
from engine.settings import Settings
from engine.steps.source import Source
from engine.storage import manifest
from engine.storage.cache import local_copy
from engine.storage.context import stage_facts
from engine.storage.formats.label_files import read_labels
from engine.storage.outputs import out_folder
from engine.storage.places import Place
from engine.storage.remote import Storage, is_url

MODEL_FILES = (model_card.WEIGHTS_FILE, PAGE_FILE, model_card.MODEL_FILE)  # the last makes it a model


def training_folder(out: str | Path, *, option: str = "--out") -> str:
    """Return the run folder of the training whose model goes to the folder or URL ``out``: the name, and -training."""
    return f"{out_folder(out, option=option)}-training"


def check_model_folder(request: Request, place: Place) -> None:
    """Refuse a place for the model that holds something else, or the model of a training that is not in ``place``.

    Raises ``ManifestMismatch``, or ``ConfigError`` without a place.
    """
    if request.out is None:
        raise ConfigError("training needs --out")
    folder = Path(request.out)
    if is_url(request.out):
        held = {name.partition("/")[0] for name in Storage(request.out).files()}
    else:
        held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held - set(MODEL_FILES):
        raise ManifestMismatch(
            f"{request.out} is not empty and holds more than a model: choose another --out; nothing was changed"
        )
    if model_card.MODEL_FILE in held and not (place.root / manifest.RUN_FILE).exists():
        raise ManifestMismatch(
            f"{request.out} holds a model whose training is not in {place}: choose another --out, or delete the model; "
            f"nothing was changed"
        )


def leave_model(place: Place, folders: dict[str, Path], plan: Plan, request: Request, source: Source) -> None:
    """Write ``model.json``, ``model.safetensors`` and ``README.md`` of a finished training to ``request.out``."""
    assert request.out is not None
    if not is_url(request.out):
        _write_model(Path(request.out), place, folders, plan, request, source)
        return
    with tempfile.TemporaryDirectory(prefix="asterism-") as here:
        _write_model(Path(here), place, folders, plan, request, source)
        Storage(request.out).put([Path(here, name) for name in MODEL_FILES], list(MODEL_FILES))


def _write_model(
    folder: Path, place: Place, folders: dict[str, Path], plan: Plan, request: Request, source: Source
) -> None:
    for name in ("select", "fit"):
        place.fetch(folders[name])
    selected, method = manifest.read_json(folders["select"] / "selected.json"), METHODS[plan.facts["method"]]
    facts = {"trained_rows": plan.facts["num_rows"], **selected.get("facts", {}), **stage_facts(folders["fit"])[0]}
    settings: Settings = request.settings
    model_card.write_model(
        folder,
        (folders["fit"] / FITTED_WEIGHTS).read_bytes(),
        method=method.name,
        dim=plan.facts["dim"],
        k=plan.stage("knn").params["k"],
        settings=method.untrained(settings).as_facts(),
        operating_points=selected["operating_points"],
        preferred=selected["preferred"],
        facts=facts,
    )
    assert request.labels is not None
    identities_N = read_labels(local_copy(request.labels), plan.facts["num_rows"], column=request.labels_column)
    text = render_page(
        manifest.read_json(folder / model_card.MODEL_FILE),
        settings,
        learned_from(request.features, request.labels, identities_N, source.digest),
        method.holdout(settings),
    )
    manifest.write_atomic(folder / PAGE_FILE, lambda stream: stream.write(text.encode()))
