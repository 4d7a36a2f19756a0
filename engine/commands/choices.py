"""The method that ``auto`` means, by the size of the source and the settings given."""

from __future__ import annotations

from engine.methods.model_card import Model
from engine.settings import Settings
from engine.steps.source import Source

SELF_TRAINED_ROWS = (2_000, 2_000_000)  # fewer are too few to learn from; of more, cosine takes an hour less
STRUCTURAL_ROWS = 200_000  # train structural up to so many: better than star_fc on all sets of up to 34,000 measured


def choose_method(num_rows: int, settings: Settings, model: Model | None) -> str:
    """What ``method = auto`` means: the model's method; without one, ``self_trained`` where it pays.

    A threshold that is set without either is one on cosines.
    """
    if model is not None:
        return model.method
    learns = SELF_TRAINED_ROWS[0] <= num_rows <= SELF_TRAINED_ROWS[1] and settings.partition.min_score is None
    return "self_trained" if learns else "cosine"


def choose_trained(source: Source, settings: Settings) -> str:
    """What training with ``method = auto`` means: whose settings were given; else ``structural`` for a smaller source.

    Settings ``train``, ``model`` and ``sampling`` are of ``star_fc`` alone, ``trees`` are not.
    """
    if settings.model_fields_set & {"train", "model", "sampling"}:
        return "star_fc"
    return "structural" if "trees" in settings.model_fields_set or source.num_rows <= STRUCTURAL_ROWS else "star_fc"
