"""The model that a finished training leaves in its folder."""

from __future__ import annotations

from pathlib import Path

from engine.methods import model_card
from engine.methods.fitting import FITTED_WEIGHTS
from engine.methods.registry import METHODS
from engine.runs.plan import Plan
from engine.settings import Settings
from engine.storage import manifest
from engine.storage.context import stage_facts
from engine.storage.places import Place


def leave_model(place: Place, folders: dict[str, Path], plan: Plan, settings: Settings) -> None:
    """Write ``model.json`` and ``model.safetensors`` into the folder of a finished training."""
    for name in ("select", "fit"):
        place.fetch(folders[name])
    selected, method = manifest.read_json(folders["select"] / "selected.json"), plan.facts["method"]
    facts = {"trained_rows": plan.facts["num_rows"], **selected.get("facts", {}), **stage_facts(folders["fit"])[0]}
    model_card.write_model(
        place.root,
        (folders["fit"] / FITTED_WEIGHTS).read_bytes(),
        method=method,
        dim=plan.facts["dim"],
        k=plan.stage("knn").params["k"],
        settings=METHODS[method].untrained(settings).as_facts(),
        operating_points=selected["operating_points"],
        preferred=selected["preferred"],
        facts=facts,
    )
    place.publish(place.root / model_card.WEIGHTS_FILE, place.root / model_card.MODEL_FILE)
