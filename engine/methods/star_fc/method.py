"""STAR-FC (Shen et al., CVPR 2021): a graph convolution trained on structure-preserved subgraphs scores every edge.

What it fits: one graph convolution and an edge head, on subgraphs sampled from the labelled source (section 3.2).
How it scores: every undirected edge of the full graph once. How it partitions: pruning by score and node intimacy, then
union-find, as published; or size-capped propagation on the same scores, whichever does better on held-out identities.

Deviations, each with its reason where it is done: an edge head over the codes' cosine and structural inputs by
default (``star_fc/original`` is the published head); balanced edge sampling; stopping and thresholds on held-out train
identities; closed-neighbourhood intimacy; propagation beside components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from engine.learning.settings import MetricSettings, SamplingSettings, TrainSettings
from engine.methods.base import Graph, Method, Presets, Scoring, Training, aggregate, select, which_edges
from engine.methods.fitting import from_model
from engine.methods.model_card import Model, Nature
from engine.methods.star_fc.convert import convert
from engine.methods.star_fc.network import build_model
from engine.methods.star_fc.settings import PRESETS, StarFcSettings
from engine.methods.star_fc.steps import Embed, Fit, StarFcScores
from engine.methods.star_fc_hierarchical.settings import HierarchySettings
from engine.methods.state_dict import Converted, StateDict
from engine.sections import Section
from engine.settings import Settings
from engine.steps.aggregate import Aggregate
from engine.steps.labels import OutsideFile


class StarFc(Method):
    """STAR-FC."""

    name = "star_fc"
    presets: Presets = PRESETS
    learned = True
    needs_model = True
    adapts = True
    num_states = 2
    metric_spaces = 1
    read_facts = ("network",)
    training_sections: tuple[type[Section], ...] = (SamplingSettings, StarFcSettings, TrainSettings, MetricSettings)

    def network(self, settings: Settings) -> StarFcSettings:
        """The network to train."""
        return settings.of(StarFcSettings)

    def aggregates(self, graph: Graph, network: StarFcSettings) -> list[Aggregate]:
        """The steps of Âx that ``network`` takes, the graph's own last."""
        return [aggregate(graph)]

    def encoding_cost(self, graph: Graph, network: StarFcSettings) -> tuple[int, float]:
        """Bytes and seconds that encoding a vertex takes beyond one convolution's."""
        return 0, 0.0

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The network that encodes vertices and scores edges."""
        config = _network_config(model.nature.network)
        return {"": lambda: build_model(model.dim, config, seed=0)}

    def untrained(self, settings: Settings) -> Nature:
        """What a model's weights belong to."""
        return Nature(network=self.network(settings).model_dump(mode="json"))

    def convert(self, *states: StateDict) -> Converted:
        """Convert the released networks."""
        return convert(*states)

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``aggregate`` (Âx), ``embed`` (vertex codes) and ``score``, with the weights of ``model``."""
        assert model is not None
        encoding = self._encoding(graph, _network_config(model.nature.network))
        return Scoring(_scores(graph, encoding, from_model(model), which_edges(settings, model)))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``aggregate``, ``fit``, then scoring of the whole graph and ``select``, which chooses the thresholds."""
        encoding = self._encoding(graph, self.network(settings))
        fit = Fit(
            **encoding,
            knn=graph.knn,
            order=graph.order,
            metric=graph.metric,
            sampling=settings.sampling,
            train=settings.train,
            seed=settings.seed,
            **labels.given(),
        )
        score = _scores(graph, encoding, {"fit": fit}, which_edges(settings))
        return Training(fit, select(graph, settings, labels, score, settings.train.holdout))

    def _encoding(self, graph: Graph, network: StarFcSettings) -> dict[str, Any]:
        *smaller, own = self.aggregates(graph, network)
        more_bytes, more_s = self.encoding_cost(graph, network)
        return {
            "features": graph.features,
            "smaller": tuple(smaller),
            "aggregate": own,
            "network": network,
            "more_bytes": more_bytes,
            "more_s": more_s,
        }


def _scores(
    graph: Graph, encoding: Mapping[str, Any], weights: Mapping[str, Any], edges: Mapping[str, Any]
) -> StarFcScores:
    n = graph.num_rows
    embed = Embed(num_rows=n, **encoding, **weights)
    return StarFcScores(
        num_rows=n, knn=graph.knn, embed=embed, aggregate=embed.aggregate, network=embed.network, **weights, **edges
    )


def _network_config(tree: Mapping[str, Any]) -> StarFcSettings:
    """The settings of a network from the plain data that models hold."""
    return HierarchySettings(**tree) if "scales" in tree else StarFcSettings(**tree)
