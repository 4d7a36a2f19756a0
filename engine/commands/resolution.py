"""What a request means for a source: its settings, its model, and the stages that follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.commands.choices import choose_method, choose_trained
from engine.commands.request import Kind, Request
from engine.commands.unread import refuse_unread
from engine.errors import ConfigError, DataError
from engine.flow.run import run_stages, store_stages
from engine.flow.training import training_stages
from engine.learning.trainable import refuse_untrainable
from engine.methods.model_card import Model
from engine.methods.registry import METHODS, read_model
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.decisions import DecisionFile
from engine.steps.labels import OutsideFile
from engine.steps.source import Source, describe_source
from engine.storage.cache import local_copy
from engine.storage.formats.label_files import read_labels


def resolve(
    kind: Kind, request: Request, source: Source, *, untrained: bool = False
) -> tuple[Settings, Model | None, Callable[[Settings], list[Stage]]]:
    """Return the settings and the model that a request means for a source, and what makes stages of settings.

    ``untrained``: a method that needs a model, and is given none, stands with its default network.
    """
    labels = OutsideFile.describe(request.labels, request.labels_column)
    identities_N = None if labels is None else _check_labels(labels, source.num_rows, training=kind == "training")
    settings = request.settings
    model = _read_model(request.model, source.dim) if request.model else None
    if settings.method == "auto":
        trains = kind == "training"
        chosen = choose_trained(source, settings) if trains else choose_method(source.num_rows, settings, model)
        settings = settings.model_copy(update={"method": chosen})
    if model is not None and "k" not in settings.knn.model_fields_set:  # the model learned from so many neighbours
        settings = settings.with_k(min(model.k, source.num_rows - 1))
    bound = model is not None and (METHODS[settings.method].trains or METHODS[model.method].clusters_itself)
    if model is not None and bound and settings.method != model.method:
        raise ConfigError(f"{request.model} is a {model.method} model, --method {settings.method} was asked for")
    if kind != "store":
        METHODS[settings.method].check(settings)
    if untrained and model is None and METHODS[settings.method].needs_model:
        learns_metric = settings.metric.learn == "auto" and not request.knn_graph
        model = METHODS[settings.method].untrained_model(settings, source.dim, learns_metric=learns_metric)
    if kind == "training":
        if labels is None or identities_N is None:
            raise ConfigError("training needs --labels")
        share = METHODS[settings.method].holdout(settings)
        if share is not None:
            halves = METHODS[settings.method].learns_in_halves
            refuse_untrainable(labels.path, identities_N, share, settings.seed, in_halves=halves)
    knn_graph = None if kind == "store" else OutsideFile.describe(request.knn_graph)
    decisions = DecisionFile.describe(request.decisions)

    named = METHODS[settings.method].committee(settings) if kind != "store" else ()
    committee = [describe_source(path, dim=request.dim) for path in named]

    def build(settings: Settings) -> list[Stage]:
        if kind == "store":
            return store_stages(source, settings)
        if kind == "training":
            assert labels is not None
            return training_stages(source, settings, labels, knn_graph, committee)
        return run_stages(source, settings, model, knn_graph, labels, committee, decisions)

    refuse_unread(kind, settings, build, other_methods=model is None)
    return settings, model, build


def _read_model(place: str, dim: int) -> Model:
    """Read and check the model at a path or URL, which stays its ``folder``."""
    return replace(read_model(local_copy(place), dim), folder=place)


def _check_labels(labels: OutsideFile, num_rows: int, *, training: bool) -> np.ndarray:
    """Read labels (N,). Raises ``DataError`` if no row has an identity or, for a training, no two have the same."""
    identities_N = read_labels(local_copy(labels.path), num_rows, column=labels.column)
    known_M = np.sort(identities_N[identities_N >= 0])
    if not len(known_M):
        raise DataError(f"{labels.path}: every label is -1; expected identities, from 0 up, of some rows")
    if training and not (known_M[1:] == known_M[:-1]).any():
        raise DataError(
            f"{labels.path}: no two of {len(known_M):,} labelled rows are of one identity; training needs identities "
            f"of several rows"
        )
    return identities_N
