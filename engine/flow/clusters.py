"""From scored edges to clusters: by the method itself, or by a partition."""

from __future__ import annotations

from engine.methods.base import Graph
from engine.methods.model_card import Model
from engine.methods.registry import METHODS
from engine.partitions import OWN, PARTITIONS, Clustered, Work
from engine.partitions.base import OperatingPoint
from engine.settings import Settings
from engine.steps.crossing import Crossing
from engine.steps.edges import Scores


def make_clusters(
    graph: Graph, settings: Settings, model: Model | None, score: Scores, crossing: Crossing
) -> Clustered:
    """The step that clusters the scored edges; ``crossing``: those of them that cross chunks."""
    method = METHODS[settings.method]
    own = method.cluster(graph, settings, model, score)
    if own is not None:
        return own
    kind = partition_kind(settings, model)
    stored = model.operating_points.get(kind) if model else None
    if not model and method.min_score is not None:
        stored = OperatingPoint(min_score=method.min_score)
    work = Work(
        score=score,
        crossing=crossing,
        knn=graph.knn,
        config=settings.partition,
        stored=stored,
        learned=method.learned,
        has_model=model is not None,
        seed=settings.seed,
        num_edges=min(graph.k, settings.score.max_edges_per_vertex or graph.k),
    )
    return PARTITIONS[kind].cluster(work)


def partition_kind(settings: Settings, model: Model | None) -> str:
    """The partition that ``settings`` mean: as set, as the model prefers, or by the kind of scores."""
    if METHODS[settings.method].clusters_itself:
        return OWN
    if settings.partition.method != "auto":
        return settings.partition.method
    if model:
        return model.preferred
    return "map_equation" if METHODS[settings.method].learned else "propagation"
