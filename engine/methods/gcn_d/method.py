"""GCN-D and GCN-S (Yang et al., "Learning to Cluster Faces on an Affinity Graph", CVPR 2019).

What it fits: a network that rates cluster proposals by their IoU and IoP with an identity (GCN-D, section 3.3), and for
``gcn_s`` one that says which members of a proposal are of a seed's identity (GCN-S, section 3.4). How it clusters: the
proposals, super-vertices at several least similarities and unions of them (section 3.2), are rated, by ``gcn_s`` those
of middling IoP cut to their inliers, and each vertex goes to the best rated one that holds it (section 3.5).

Deviations: the default proposes at lower similarities too, and no unions (the published sets of 2, 5, 8 and 20 are
presets); what the networks read and how they convolve (``proposals``); one network gives IoU and IoP;
several seeds of each proposal are tried and the best rated cut is kept, as in the paper, where the released code draws
one; training stops on held-out identities.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from engine.errors import ConfigError
from engine.learning.settings import TrainSettings
from engine.methods.base import NO_PRESETS, Graph, Method, Presets, Scoring, Training
from engine.methods.cosine.method import Cosine
from engine.methods.fitting import from_model
from engine.methods.gcn_d.proposals import build_network
from engine.methods.gcn_d.settings import PRESETS, GcnDSettings
from engine.methods.gcn_d.steps import Fit, MadeProposals, ProposedClusters, network_name
from engine.methods.model_card import Model, Nature
from engine.partitions import Clustered
from engine.partitions.select import SelectOwn
from engine.settings import Settings
from engine.steps.edges import Scores
from engine.steps.labels import OutsideFile

_PROPOSING = {"thresholds", "max_size", "min_size", "unions", "union_thresholds", "union_similarity", "union_max_size"}


class GcnD(Method):
    """GCN-D."""

    name = "gcn_d"
    presets: Presets = PRESETS
    segments = False
    needs_model = True
    training_sections = (GcnDSettings, TrainSettings)
    partitions = ("own",)
    read_facts = ("network",)

    def check(self, settings: Settings) -> None:
        """Refuse settings of unions where there are none, too."""
        super().check(settings)
        given = settings.of(GcnDSettings).model_fields_set & {"union_thresholds", "union_similarity", "union_max_size"}
        if given and not settings.of(GcnDSettings).unions:
            names = ", ".join(f"gcn_d.{name}" for name in sorted(given))
            raise ConfigError(f"{names}: without gcn_d.unions nothing is joined; set it, or leave out {names}")

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The network that rates proposals and, of GCN-S, that which cuts them."""
        config = GcnDSettings(**model.nature.network)
        return {
            f"{network_name(segments)}.": partial(build_network, model.dim, config, 0, segments=segments)
            for segments in ((False, True) if self.segments else (False,))
        }

    def untrained(self, settings: Settings) -> Nature:
        """What a model's weights belong to."""
        return Nature(network=settings.of(GcnDSettings).model_dump(mode="json"))

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """The cosine graph's edges, of which proposals are made."""
        return Cosine().score(graph, settings, None)

    def cluster(self, graph: Graph, settings: Settings, model: Model | None, score: Scores) -> Clustered:
        """``proposals`` and ``roots``, with the weights of ``model``."""
        assert model is not None
        return ProposedClusters(**self._rating(graph, GcnDSettings(**model.nature.network), score), **from_model(model))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``score``, ``proposals``, ``fit`` and ``select``, which hands on that clusters are its own."""
        score = Cosine().score(graph, settings, None).score
        fit = Fit(
            **self._rating(graph, settings.of(GcnDSettings), score),
            order=graph.order,
            train=settings.train,
            seed=settings.seed,
            **labels.given(),
        )
        return Training(fit, SelectOwn(fit=fit))

    def _rating(self, graph: Graph, network: GcnDSettings, score: Scores) -> dict[str, Any]:
        proposing = network.model_dump(mode="json", include=_PROPOSING)
        proposals = MadeProposals(score=score, features=graph.features, proposing=proposing)
        return {
            "features": graph.features,
            "knn": graph.knn,
            "proposals": proposals,
            "network": network,
            "segments": self.segments,
        }


class GcnS(GcnD):
    """GCN-D, and GCN-S, which cuts proposals to their inliers."""

    name = "gcn_s"
    presets = NO_PRESETS
    segments = True
