"""Whether a trained model's scores fit the rows at hand, told by the two opinions that need no labels.

More rows and so more strangers, other densities or another kind of data move the odds that a model should give, and how
well it ranks, too. The opinions see the rows at hand (docs/decisions/0034 and 0037).
"""

from __future__ import annotations

from dataclasses import replace

from engine.methods.base import Graph
from engine.methods.self_trained.method import counted_once, opinions, without_copies
from engine.methods.self_trained.odds import Saying
from engine.settings import Settings
from engine.steps.edges import Scores


def what_opinions_say(graph: Graph, settings: Settings, score: Scores) -> Saying:
    """The step that compares a model's scores with the opinions; ``enough`` of its facts says that they may stand."""
    graph = replace(graph, prefix="opinion_")
    listed, copies = counted_once(graph, settings.seed)
    first = opinions(without_copies(graph, copies), settings, copies, listed)
    return Saying(score=score, first=first, strangers=first.strangers, copies=copies, order=graph.order, fit=None)
