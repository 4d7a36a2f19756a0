"""GCN-V+E (Yang et al., "Learning to Cluster Faces via Confidence and Connectivity Estimation", CVPR 2020).

What it fits: GCN-V's confidence (``engine.methods.gcn_v``), then graph convolutions over the candidates of a vertex,
its neighbours of higher confidence, that say which of them are of its identity (section 3.3). How it scores: the
vertices of lowest confidence link to their nearest candidate, as in GCN-V; the others to the likeliest, or to the
nearest of at least some probability; a link's score is the cosine of its ends, or of their embeddings. How it
partitions: links of less than a least cosine are dropped, the others joined.

Deviations: those of GCN-V; candidates are looked for among the K neighbours that the vectors list (published: a second
KNN graph of K = 160 over GCN-V's embeddings), and told apart by the vectors: embeddings of identities not trained on
are worse (``gcn_e.inputs=embedded`` is the published way); convolutions average over candidates that list each other,
unweighted; the network trains on all vertices (published: without the 70 % of lowest confidence): confidences of those
learned by heart leave next to no stranger among the candidates of the rest; the pass, the least cosine and the least
probability are chosen on held-out identities (published: the likeliest candidate, here probability 0, and cosine 0.80).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from engine.learning.pivots import build_network
from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.base import Graph, Method, Scoring, Training, aggregate
from engine.methods.fitting import from_model
from engine.methods.gcn_e.convert import convert
from engine.methods.gcn_e.settings import GcnESettings
from engine.methods.gcn_e.steps import PREFIX, PROBABILITIES, FirstConfidence, Fit, LikelyLinks, SelectProbability
from engine.methods.gcn_v.confidence import build_network as build_confidence
from engine.methods.gcn_v.method import confidence, fitted_fields, link_edges
from engine.methods.gcn_v.settings import GcnVSettings
from engine.methods.model_card import Model, Nature
from engine.methods.state_dict import Converted, StateDict
from engine.settings import Settings
from engine.steps.labels import OutsideFile


class GcnE(Method):
    """GCN-V+E."""

    name = "gcn_e"
    needs_model = True
    num_states = 2
    training_sections = (GcnVSettings, GcnESettings, SamplingSettings, TrainSettings)
    partitions = ("components",)
    read_facts = ("network", "min_probability", "link_pass")

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """GCN-V's network, and that over a vertex's candidates."""
        network = model.nature.network
        found, config = GcnVSettings(**network["gcn_v"]), GcnESettings(**network["gcn_e"])
        dim = found.hidden if config.inputs == "embedded" else model.dim
        return {
            PREFIX: partial(build_confidence, model.dim, found, seed=0),
            "": partial(build_network, dim, config, seed=0),
        }

    def untrained(self, settings: Settings) -> Nature:
        """What a model's weights belong to, and the least probability of a link."""
        sections = settings.of(GcnVSettings), settings.of(GcnESettings)
        network = {each.name: each.model_dump(mode="json") for each in sections}
        return Nature(network=network, min_probability=0.0, link_pass="vectors")

    def convert(self, *states: StateDict) -> Converted:
        """Convert the released networks."""
        return convert(*states)

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``aggregate``, ``confidence``, ``links`` and ``score``, with the weights of ``model``."""
        assert model is not None
        network, given = model.nature.network, from_model(model)
        found = confidence(graph, GcnVSettings(**network["gcn_v"]), aggregate(graph), tensors=PREFIX, **given)
        links = LikelyLinks(
            num_rows=graph.num_rows,
            knn=graph.knn,
            confidence=found,
            features=graph.features,
            network=GcnESettings(**network["gcn_e"]),
            probabilities=(model.nature.min_probability,),
            **given,
        )
        return Scoring(link_edges(graph, links, settings, model))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``aggregate``, ``fit_confidence``, ``confidence``, ``fit``, ``links`` of the whole graph, and ``select``."""
        first = FirstConfidence(**fitted_fields(graph, settings, labels))
        found = confidence(graph, settings.of(GcnVSettings), first.aggregate, fit=first)
        shared: dict[str, Any] = {"knn": graph.knn, "features": graph.features, "network": settings.of(GcnESettings)}
        fit = Fit(
            **shared,
            order=graph.order,
            confidence=found,
            fit_confidence=first,
            train=settings.train,
            identity_balance=settings.sampling.identity_balance,
            seed=settings.seed,
            **labels.given(),
        )
        links = LikelyLinks(num_rows=graph.num_rows, confidence=found, probabilities=PROBABILITIES, fit=fit, **shared)
        select = SelectProbability(
            links=links, order=graph.order, seed=settings.seed, holdout=settings.train.holdout, **labels.given()
        )
        return Training(fit, select)
