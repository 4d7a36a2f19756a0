"""The self-trained method's steps up to its first clusters, under titles of their own."""

from __future__ import annotations

from engine.methods.cosine.steps import CosineScores
from engine.partitions.propagation import Propagated
from engine.steps.metric import LearnedMetric
from engine.steps.point import ChosenPoint


class Edges(CosineScores):
    """The cosine graph's edges, of which first clusters are made."""

    title = "edges"


class FirstPoint(ChosenPoint):
    """Where the graph is cut for first clusters."""

    title = "first_point"


class FirstClusters(Propagated):
    """The clusters to learn from."""

    title = "first"


class FirstMetric(LearnedMetric):
    """The second graph's metric, learned from first clusters."""

    title = "first_metric"
