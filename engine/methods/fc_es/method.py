"""FC-ES and FC-ESER (Liu, "Face Clustering via Early Stopping and Edge Recall", arXiv 2408.13431).

How ``fc_es`` scores: every vertex walks along its neighbours, nearest first, until the share of steps that lead to
vertices which both ends list, NEP, falls below theta. An edge's score is the largest theta at which a walk of either
end still passes it: the least NEP met up to there. So any least score of a partition is a theta, and edges that pass it
are those of the walks it stops. ``fc_eser`` takes back edges beyond the stop whose NEP is at least ``fc_es.delta`` and
which a learned test of pairs gives a probability of at least ``fc_es.eta``: their score is that probability. Either
partitions in any way; as released by the map equation at theta 0.22 (presets ``fc_es/original``, ``fc_eser/original``).
Training chooses partition and theta on held-out identities.

Deviations: links are undirected, and weigh as their score, where the released code keeps directions and gives each its
own NEP; training chooses how many neighbours are read, too (published: 80), as NEP says little where they are many more
than an identity has rows. The test of pairs is the structural scorer's boosted trees, fitted to all edges of the graph,
where the released one is a transformer over both ends' 80 neighbours, fitted to the edges beyond the stop: a thousand
times the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from engine.graph.structural_inputs import MAX_RANKS
from engine.learning import selection
from engine.learning.settings import TrainSettings
from engine.methods.base import Graph, Method, Scoring, Training, which_edges
from engine.methods.fc_es.settings import FC_ES_PRESETS, FC_ESER_PRESETS, FcEsSettings
from engine.methods.fc_es.steps import Nep, Pairs, SelectWalk, WalkScores
from engine.methods.fitting import FitNothing
from engine.methods.model_card import Model, Nature
from engine.methods.structural.method import Structural, fit_and_score
from engine.methods.structural.settings import TreesSettings
from engine.settings import Settings
from engine.steps.edges import Scores
from engine.steps.labels import OutsideFile

COUNTS = (10, 20, 40)  # of neighbours that training tries, beside all


class FcEs(Method):
    """FC-ES."""

    name = "fc_es"
    presets = FC_ES_PRESETS
    learned = True
    chooses = True
    min_score = 0.22
    read_facts = ("neighbors",)
    run_sections = (FcEsSettings,)
    training_sections = (TrainSettings,)

    def reads(self, name: str, *, training: bool) -> bool:
        """Nothing is taken back."""
        return name not in ("fc_es.delta", "fc_es.eta") and super().reads(name, training=training)

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``nep``, of each row and what it lists, and ``score``."""
        return Scoring(_walk_scores(graph, settings, model, {}))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``select``, which chooses the number of neighbours and theta; the weights are none."""
        fit = FitNothing(knn=graph.knn)
        return Training(fit, _select(graph, settings, labels, settings.train.holdout, None))


class FcEser(Method):
    """FC-ES, and the structural scorer, which says what is taken back."""

    name = "fc_eser"
    presets = FC_ESER_PRESETS
    learned = True
    needs_model = True
    min_score = 0.22
    read_facts = ("neighbors", "delta", "eta")
    run_sections = (FcEsSettings,)
    training_sections = (TreesSettings,)
    learns_in_halves = True

    def reads(self, name: str, *, training: bool) -> bool:
        """What is taken back is settled by training."""
        if name in ("fc_es.delta", "fc_es.eta"):
            return training
        return super().reads(name, training=training)

    def holdout(self, settings: Settings) -> float | None:
        """Return the share of identities that the trees hold out."""
        return settings.of(TreesSettings).holdout

    def check_weights(self, model: Model) -> None:
        """Refuse what is no structural scorer."""
        Structural().check_weights(model)

    def untrained(self, settings: Settings) -> Nature:
        """What is taken back."""
        config = settings.of(FcEsSettings)
        return Nature(neighbors=config.neighbors or MAX_RANKS, delta=config.delta, eta=config.eta)

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``neighborhoods``, ``prior`` and ``pairs``, the trees' probability of every edge; ``nep`` and ``score``."""
        assert model is not None
        read = _edges_read(graph, settings, model)
        pairs = _as_pairs(Structural().score(graph, settings, model).score, scratch=True, **read)
        recall = {"delta": model.nature.delta, "eta": model.nature.eta}
        return Scoring(_walk_scores(graph, settings, model, {**recall, "pairs": pairs}))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """The trees' steps up to ``pairs``, and ``select``, which chooses the number of neighbours and theta."""
        fit, scoring = fit_and_score(graph, settings, labels.given(), which_edges(settings))
        pairs = _as_pairs(scoring.score)
        return Training(fit, _select(graph, settings, labels, settings.of(TreesSettings).holdout, pairs))


def _as_pairs(score: Scores, **changed: Any) -> Pairs:
    values = {each.name: getattr(score, each.name) for each in fields(score) if each.init}
    return Pairs(**values | changed)


def _read_neighbors(graph: Graph, settings: Settings, model: Model | None) -> int:
    return min(settings.of(FcEsSettings).neighbors or (model.nature.neighbors if model else MAX_RANKS), graph.k)


def _edges_read(graph: Graph, settings: Settings, model: Model | None) -> dict[str, Any]:
    count, edges = _read_neighbors(graph, settings, model), which_edges(settings, model)
    return edges | {"max_edges_per_vertex": min(edges["max_edges_per_vertex"] or count, count)}


def _walk_scores(graph: Graph, settings: Settings, model: Model | None, recall: Mapping[str, Any]) -> WalkScores:
    n = graph.num_rows
    nep = Nep(num_rows=n, knn=graph.knn, neighbors=_read_neighbors(graph, settings, model))
    return WalkScores(num_rows=n, knn=graph.knn, nep=nep, **_edges_read(graph, settings, model), **recall)


def _select(graph: Graph, settings: Settings, labels: OutsideFile, holdout: float, pairs: Scores | None) -> SelectWalk:
    k, config = graph.k, settings.of(FcEsSettings)
    counts = [config.neighbors] if config.neighbors else [each for each in COUNTS if each < k] + [k]
    given: dict[str, Any] = {} if pairs is None else {"delta": config.delta, "eta": config.eta}
    return SelectWalk(
        knn=graph.knn,
        order=graph.order,
        pairs=pairs,
        seed=settings.seed,
        holdout=holdout,
        step=settings.partition.step,
        counts=tuple(min(each, k, MAX_RANKS) for each in counts),
        selection=selection.VERSION,
        **which_edges(settings),
        **labels.given(),
        **given,
    )
