"""GCN-V (Yang et al., "Learning to Cluster Faces via Confidence and Connectivity Estimation", CVPR 2020).

What it fits: a graph convolution that estimates every vertex's confidence, the share of its neighbours that are of its
identity (section 3.2). How it scores: every vertex links to its nearest neighbour of higher confidence; a link's score
is its cosine, of the vectors (first pass) or of the convolution's embeddings (second pass). How it partitions: links of
less than a least cosine are dropped, the others joined (section 3.4).

Deviations: training stops on held-out identities, and both the least cosine and the pass are chosen on them (published:
0.65, and 0.80 in the second pass, of fixed schedules: preset ``gcn_v/ms1m``); the second pass looks for links among the
K neighbours that the vectors list, re-ranked by embeddings, where the released code builds a second KNN graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.base import Graph, Method, Scoring, Training, aggregate, which_edges
from engine.methods.fitting import from_model
from engine.methods.gcn_v.confidence import build_network
from engine.methods.gcn_v.convert import convert
from engine.methods.gcn_v.settings import PRESETS, GcnVSettings
from engine.methods.gcn_v.steps import PASSES, Confidence, FitConfidence, Links, LinkScores, SelectPass
from engine.methods.model_card import Model, Nature
from engine.methods.state_dict import Converted, StateDict
from engine.settings import Settings
from engine.steps.aggregate import Aggregate
from engine.steps.labels import OutsideFile


class GcnV(Method):
    """GCN-V."""

    name = "gcn_v"
    presets = PRESETS
    needs_model = True
    num_states = 1
    training_sections = (GcnVSettings, SamplingSettings, TrainSettings)
    partitions = ("components",)
    read_facts = ("network", "link_pass")

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The confidence network."""
        return {"": partial(build_network, model.dim, GcnVSettings(**model.nature.network), seed=0)}

    def untrained(self, settings: Settings) -> Nature:
        """What a model's weights belong to, and the pass that it uses."""
        return Nature(network=settings.of(GcnVSettings).model_dump(mode="json"), link_pass="vectors")

    def convert(self, *states: StateDict) -> Converted:
        """Convert the released network."""
        return convert(*states)

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``aggregate``, ``confidence``, ``links`` and ``score``, with the weights of ``model``."""
        assert model is not None
        found = confidence(graph, GcnVSettings(**model.nature.network), aggregate(graph), **from_model(model))
        links = Links(num_rows=graph.num_rows, knn=graph.knn, confidence=found)
        return Scoring(link_edges(graph, links, settings, model))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``aggregate``, ``fit``, ``confidence`` and ``links`` of the whole graph, and ``select``."""
        fit = FitConfidence(**fitted_fields(graph, settings, labels))
        found = confidence(graph, settings.of(GcnVSettings), fit.aggregate, fit=fit)
        links = Links(num_rows=graph.num_rows, knn=graph.knn, confidence=found)
        select = SelectPass(
            links=links, order=graph.order, seed=settings.seed, holdout=settings.train.holdout, **labels.given()
        )
        return Training(fit, select)


def fitted_fields(graph: Graph, settings: Settings, labels: OutsideFile) -> dict[str, Any]:
    """The fields of ``FitConfidence``."""
    return {
        "features": graph.features,
        "aggregate": aggregate(graph),
        "knn": graph.knn,
        "order": graph.order,
        "network": settings.of(GcnVSettings),
        "train": settings.train,
        "seed": settings.seed,
        "identity_balance": settings.sampling.identity_balance,
        **labels.given(),
    }


def confidence(graph: Graph, network: GcnVSettings, averaged: Aggregate, **weights: Any) -> Confidence:
    """The confidences and embeddings of all vertices."""
    return Confidence(num_rows=graph.num_rows, features=graph.features, aggregate=averaged, network=network, **weights)


def link_edges(graph: Graph, links: Links, settings: Settings, model: Model) -> LinkScores:
    """The scores over links, in the pass that the model uses."""
    column = PASSES.index(model.nature.link_pass)
    return LinkScores(
        num_rows=graph.num_rows, knn=graph.knn, links=links, column=column, **which_edges(settings, model)
    )
