"""Plans of every kind, so that a test sees every stage that the engine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.collection.flow import AnswersFile, addition_stages, answer_stages, compaction_stages, removal_stages
from engine.collection.kept import Kept
from engine.collection.versions import Version
from engine.commands.configuration import load_settings
from engine.errors import ConfigError
from engine.flow.run import run_stages, store_stages
from engine.flow.training import training_stages
from engine.methods.model_card import Model, Nature
from engine.methods.registry import METHODS
from engine.partitions import PARTITIONS
from engine.partitions.base import OperatingPoint
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.decisions import DecisionFile
from engine.steps.labels import OutsideFile
from engine.steps.source import Source, describe_source

DIM, K = 16, 20
GRAPHS = ({}, {"knn.mode": "exact"}, {"knn.mode": "partition"}, {"knn.mode": "ivf"})
DECISIONS = DecisionFile("decisions.parquet", "0" * 32)
CHOSEN = {"rows_per_cluster": 50.0, "distance": 0.5, "min_rows": 5, "selection": "eom"}  # by a baseline's training
POINTS = {
    "components": OperatingPoint(min_score=0.5, min_intimacy=0.5),
    "propagation": OperatingPoint(min_score=0.5, max_size=50),
    "density_peaks": OperatingPoint(min_score=0.5),
    "map_equation": OperatingPoint(min_score=0.5),
}


def all_stages(folder: Path, num_rows: int = 500) -> Iterator[Stage]:
    """The stages of a store, of updates, and of trainings and runs of each method, partition and kind of graph.

    ``folder``: for small files of vectors, labels and a graph.
    """
    source, labels, graph = _write(folder, num_rows)
    yield from store_stages(source, load_settings())
    version, answers = Version(0, kept_of_nothing(num_rows)), AnswersFile(str(folder / "decisions.parquet"), "digest")
    yield from addition_stages(folder, version, source, load_settings(), answers)
    yield from removal_stages(folder, version, DIM, folder / "gone.txt", "digest", answers)
    yield from answer_stages(folder, version, DIM, answers)
    yield from compaction_stages(folder, version, DIM)
    for name, method in METHODS.items():
        for given in _given(name):
            settings = load_settings(None, given)
            committee = [source] if method.takes_committee else []
            if method.trains:
                for outside in (None, graph):
                    yield from training_stages(source, settings, labels, outside, committee)
            for model in _models(settings):
                yield from run_stages(source, settings, model, None, labels, [], DECISIONS)
                for outside in (None, graph):
                    if outside is None or model is None or not model.projects:
                        yield from run_stages(source, settings, model, outside, labels, [] if model else committee)


def kept_of_nothing(num_rows: int) -> Kept:
    """What a collection rests on, without any array."""
    return Kept(num_rows, K, True, 0, (), "", None, 1.0, 0.0, 0.0, 0, {}, "", ("", ""), None, num_rows)


def _given(method: str) -> Iterator[dict[str, object]]:
    partitions = [{}] if METHODS[method].clusters_itself else [
        {**({} if point is None else {"partition.min_score": point}), "partition.method": partition}
        for partition in PARTITIONS for point in (None, 0.5)
    ]  # fmt: skip
    ranges = [
        {"partition.method": "components", "partition.min_score": 0.5, "partition.union_find_ranges": 2},
        {"partition.method": "map_equation", "partition.min_score": 0.5, "partition.module_ranges": 2},
    ]
    for further in [*partitions, *([] if METHODS[method].clusters_itself else ranges)]:
        for graph in GRAPHS:
            given = {"method": method, "knn.k": K, **further, **graph}
            try:
                METHODS[method].check(load_settings(None, given))
            except ConfigError:  # the method has no such partition
                continue
            yield given


def _models(settings: Settings) -> list[Model | None]:
    method = METHODS[settings.method]
    if not method.trains:
        return [None]
    facts = {**method.untrained(settings).as_facts(), "point": CHOSEN, "neighbors": 10}
    models = [facts]
    if method.metric_spaces:
        models += [{**facts, "shrinkage": 1.0, "second_graph": method.metric_spaces == 2}]
    natures = [Nature.model_validate(each) for each in models]
    return [Model("model", settings.method, DIM, K, "digest", POINTS, "components", each) for each in natures]


def _write(folder: Path, num_rows: int) -> tuple[Source, OutsideFile, OutsideFile]:
    rng = np.random.default_rng(0)
    np.save(folder / "features.npy", rng.standard_normal((num_rows, DIM)).astype(np.float32))
    np.save(folder / "labels.npy", np.arange(num_rows) // 5)
    np.save(folder / "graph.npy", np.tile(np.arange(K + 1), (num_rows, 1)))
    labels, graph = OutsideFile.describe(folder / "labels.npy"), OutsideFile.describe(folder / "graph.npy")
    assert labels is not None
    assert graph is not None
    return describe_source(folder / "features.npy"), labels, graph
