"""The method that ``auto`` means, by the size of the source and the settings given."""

from __future__ import annotations

from engine.clustering.label_free import SELF_TRAINED_ROWS
from engine.methods.model_card import Model
from engine.settings import Settings
from engine.steps.source import Source

STRUCTURAL_ROWS = 200_000  # On all measured sets, of up to 34,000 rows, structural was better than star_fc.


def choose_method(num_rows: int, settings: Settings, model: Model | None) -> str:
    """Choose the method of a run: the model's; without a model, ``self_trained`` if the number of rows suits it.

    A threshold set without a model and a method is meant for cosines, so the method is then ``cosine``.
    """
    if model is not None:
        return model.method
    learns = num_rows <= SELF_TRAINED_ROWS and settings.partition.min_score is None
    return "self_trained" if learns else "cosine"


def choose_trained(source: Source, settings: Settings) -> str:
    """Choose the method of a training: the one whose settings were given, else ``structural`` for a smaller source.

    The sections ``train``, ``model`` and ``sampling`` are settings of ``star_fc``, ``trees`` of ``structural``.
    """
    if settings.model_fields_set & {"train", "model", "sampling"}:
        return "star_fc"
    return "structural" if "trees" in settings.model_fields_set or source.num_rows <= STRUCTURAL_ROWS else "star_fc"
