"""Every method, by name: a new one is a line of ``_REGISTERED``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import DataError, ManifestMismatch
from engine.methods import model_card
from engine.methods.base import Method
from engine.methods.baselines.method import Baseline
from engine.methods.baselines.steps import KINDS
from engine.methods.cdp.method import Cdp, CdpMediator
from engine.methods.cosine.method import Cosine
from engine.methods.fc_es.method import FcEs, FcEser
from engine.methods.gcn_d.method import GcnD, GcnS
from engine.methods.gcn_e.method import GcnE
from engine.methods.gcn_v.method import GcnV
from engine.methods.l_gcn.method import LGcn
from engine.methods.model_card import MODEL, MODEL_FILE, Model
from engine.methods.self_trained.method import SelfTrained
from engine.methods.star_fc.method import StarFc
from engine.methods.star_fc_hierarchical.method import StarFcHierarchical
from engine.methods.structural.method import Structural
from engine.settings import Settings

_REGISTERED: tuple[Method, ...] = (
    StarFc(),
    StarFcHierarchical(),
    Structural(),
    SelfTrained(),
    Cosine(),
    GcnV(),
    GcnE(),
    LGcn(),
    GcnD(),
    GcnS(),
    Cdp(),
    CdpMediator(),
    FcEs(),
    FcEser(),
    *(Baseline(name) for name in KINDS),
)
METHODS: dict[str, Method] = {each.name: each for each in _REGISTERED}

# Published settings, by name: ``--config star_fc/original``.
PRESETS: dict[str, Mapping[str, Any]] = {
    f"{each.name}/{preset}": {"method": each.name, **settings}
    for each in _REGISTERED
    for preset, settings in each.presets.items()
}

# The sections of settings that methods own, beside those that all share.
SECTIONS = {
    section.name: section
    for each in _REGISTERED
    for section in (*each.run_sections, *each.training_sections)
    if section.name not in Settings.model_fields
}


def read_model(folder: str | Path, dim: int) -> Model:
    """Open a model's folder and check that a training of its method left it.

    Raises ``DataError`` for a folder that is no model or is damaged, ``ManifestMismatch`` for a model of another format
    or D.
    """
    model = model_card.read_model(folder)
    if model.method not in METHODS:
        *names, last = (repr(name) for name in METHODS)
        raise DataError(
            f"{model.folder}/{MODEL_FILE}: method: input should be {', '.join(names)} or {last}, got {model.method!r}; "
            f"{MODEL.remedy}"
        )
    method = METHODS[model.method]
    if model.dim != dim and (model.projects or not method.any_dimension):
        raise ManifestMismatch(
            f"{model.folder}: the model was trained on {model.dim} dimensions, the features have {dim}; "
            f"train a model on features like these"
        )
    method.check_model(model)
    return model
