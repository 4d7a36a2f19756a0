"""CDP, Consensus-Driven Propagation (Zhan et al., ECCV 2018): pairs of a base graph, judged by a committee of others.

``cdp``: a pair's score is its cosine; with a committee (``cdp.committee``: other vectors of the same rows) only pairs
that enough members list too are scored (vote, section 3.3). ``cdp_mediator``: a small network scores every pair from
what base and committee say of it. Both partition by size-capped propagation (section 3.4); leftovers are never dumped
into one cluster.

Deviations: a member votes for a pair if either row lists the other; thresholds and the size cap are chosen on train
identities unless set; the mediator stops on held-out identities, and its probabilities may be partitioned in any way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from engine.errors import ConfigError
from engine.learning.settings import TrainSettings
from engine.methods.base import Graph, Method, Scoring, Training, select, which_edges
from engine.methods.cdp.mediator import build_mediator
from engine.methods.cdp.settings import CDP_PRESETS, MEDIATOR_PRESETS, CdpSettings
from engine.methods.cdp.steps import FitMediator, Mediated, Vote
from engine.methods.fitting import FitNothing, from_model
from engine.methods.model_card import Model, Nature
from engine.settings import Settings
from engine.steps.labels import OutsideFile

MOST_MEMBERS = 1_000


class Cdp(Method):
    """CDP by cosines, or by vote."""

    name = "cdp"
    presets = CDP_PRESETS
    takes_committee = True
    run_sections = (CdpSettings,)
    training_sections = (TrainSettings,)
    chooses = True
    partitions = ("propagation",)

    def committee(self, settings: Settings) -> tuple[str, ...]:
        """Return the places of the members' vectors."""
        return settings.of(CdpSettings).committee

    def check(self, settings: Settings) -> None:
        """Refuse more votes than there are members, too."""
        super().check(settings)
        config = settings.of(CdpSettings)
        if "accept" in config.model_fields_set and config.accept > len(config.committee):
            raise ConfigError(
                f"cdp.accept = {config.accept} asks for more votes than cdp.committee has members, "
                f"{len(config.committee)}: lower it, or name more members"
            )

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``score``: the pairs that enough members list."""
        accept = min(settings.of(CdpSettings).accept, len(graph.committee))
        asked = _consulted(graph) if accept else {"knn": graph.knn}
        return Scoring(Vote(num_rows=graph.num_rows, accept=accept, **asked, **which_edges(settings)))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``score``, and ``select``, which chooses the least cosine and the size cap; the weights are none."""
        fit, score = FitNothing(knn=graph.knn), self.score(graph, settings, None).score
        return Training(fit, select(graph, settings, labels, score, settings.train.holdout, self.partitions))


class CdpMediator(Method):
    """CDP's mediator."""

    name = "cdp_mediator"
    presets = MEDIATOR_PRESETS
    learned = True
    needs_model = True
    takes_committee = True
    run_sections = (CdpSettings,)
    training_sections = (TrainSettings,)
    read_facts = ("network",)

    def committee(self, settings: Settings) -> tuple[str, ...]:
        """Return the places of the members' vectors."""
        return settings.of(CdpSettings).committee

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The mediator."""
        members = model.nature.network["members"]
        if type(members) is not int or not 0 <= members <= MOST_MEMBERS:
            raise ValueError(f"members: expected a number from 0 to {MOST_MEMBERS}, got {members!r}")
        return {"": partial(build_mediator, 3 * members + 2, seed=0)}

    def reads(self, name: str, *, training: bool) -> bool:
        """A mediator takes the place of votes."""
        return name != "cdp.accept" and super().reads(name, training=training)

    def untrained(self, settings: Settings) -> Nature:
        """The number of members that a model's weights belong to."""
        return Nature(network={"members": len(settings.of(CdpSettings).committee)})

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``score``, with the weights of ``model``."""
        assert model is not None
        trained = model.nature.network["members"]
        if trained != len(graph.committee):
            raise ConfigError(
                f"{model.folder} was trained with {trained} committee members, cdp.committee names "
                f"{len(graph.committee)}: give as many, of the same kinds and in the same order"
            )
        given = _consulted(graph) | from_model(model) | which_edges(settings, model)
        return Scoring(Mediated(num_rows=graph.num_rows, **given))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``fit``, then scoring of all pairs and ``select``."""
        asked = _consulted(graph)
        fit = FitMediator(
            train=settings.train,
            seed=settings.seed,
            network=self.untrained(settings).network,
            **asked,
            **labels.given(),
        )
        score = Mediated(num_rows=graph.num_rows, fit=fit, **asked, **which_edges(settings))
        return Training(fit, select(graph, settings, labels, score, settings.train.holdout))


def _consulted(graph: Graph) -> dict[str, Any]:
    """The fields of ``Consulting``."""
    members = graph.committee
    return {
        "knn": graph.knn,
        "order": graph.order,
        "members": tuple(each.knn for each in members),
        "member_vectors": tuple(each.rows for each in members),
        "member_orders": tuple(each.order for each in members),
    }
