"""L-GCN (Wang et al., "Linkage Based Face Clustering via Graph Convolution Network", CVPR 2019).

What it fits: graph convolutions over the subgraph around a pivot that say which of its neighbours are of its identity
(section 3.3). How it scores: every vertex is a pivot once, and an edge's score is the mean of both directions'
probabilities. How it partitions: size-capped propagation, as published, or whichever partition does better on
held-out identities.

Deviations: vectors are standardised by statistics of members measured once, not by batch statistics that padding
enters; convolutions are half as wide (``l_gcn/original`` has the published widths, which take some three times as long
on CPUs); training stops on held-out identities and draws pivots evenly over identities of any size; the same numbers of
neighbours (``second_hop``, ``active``) serve training and use; neighbours below the similarity that a model stores are
neither scored nor members. Unlabelled vectors are scored like any others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from engine.learning.pivots import build_network
from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.base import Graph, Method, Scoring, Training, select, which_edges
from engine.methods.fitting import from_model
from engine.methods.l_gcn.convert import convert
from engine.methods.l_gcn.settings import PRESETS, LGcnSettings
from engine.methods.l_gcn.steps import Directed, Fit, LinkScores
from engine.methods.model_card import Model, Nature
from engine.methods.state_dict import Converted, StateDict
from engine.settings import Settings
from engine.steps.labels import OutsideFile


class LGcn(Method):
    """L-GCN."""

    name = "l_gcn"
    presets = PRESETS
    learned = True
    needs_model = True
    num_states = 1
    training_sections = (LGcnSettings, SamplingSettings, TrainSettings)
    read_facts = ("network",)

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The network over a pivot's subgraph."""
        config = LGcnSettings(**model.nature.network)
        return {"": partial(build_network, model.dim, config, seed=0)}

    def untrained(self, settings: Settings) -> Nature:
        """What a model's weights belong to."""
        return Nature(network=settings.of(LGcnSettings).model_dump(mode="json"))

    def convert(self, *states: StateDict) -> Converted:
        """Convert the released network."""
        return convert(*states)

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``directed``, every vertex's scores of what it lists, and ``score``."""
        assert model is not None
        network, edges = LGcnSettings(**model.nature.network), which_edges(settings, model)
        return Scoring(_scores(graph, network, from_model(model), edges))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``fit``, then scoring of the whole graph and ``select``, which chooses the thresholds."""
        edges = which_edges(settings)
        fit = Fit(
            features=graph.features,
            knn=graph.knn,
            order=graph.order,
            network=settings.of(LGcnSettings),
            train=settings.train,
            identity_balance=settings.sampling.identity_balance,
            seed=settings.seed,
            min_similarity=edges["min_similarity"],
            **labels.given(),
        )
        score = _scores(graph, settings.of(LGcnSettings), {"fit": fit}, edges)
        return Training(fit, select(graph, settings, labels, score, settings.train.holdout))


def _scores(graph: Graph, network: LGcnSettings, weights: dict[str, Any], edges: dict[str, Any]) -> LinkScores:
    directed = Directed(
        num_rows=graph.num_rows,
        features=graph.features,
        knn=graph.knn,
        network=network,
        min_similarity=edges["min_similarity"],
        **weights,
    )
    return LinkScores(num_rows=graph.num_rows, knn=graph.knn, directed=directed, **edges)
