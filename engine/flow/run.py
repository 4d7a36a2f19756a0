"""The steps of a run, from the source to labels and what the report says of them.

    source -> ingest -> knn (-> recall), by way of
           exact:      nothing
           partition:  cells_1 -> probes_1 -> order -> vertices -> near_1 -> join_1 -> check_1
                       -> cells_2 -> probes_2 -> sort_2 -> near_2 -> join_2 -> check_2 ...
           ivf:        quantiser -> assign -> order -> vertices
           -> a method's steps -> score
           -> [point] -> adjacency -> prune -> merge -> roots   (components)
                      or roots                      (propagation, density peaks, map equation; a method's own)
           -> labels -> explain -> analysis

Training has the same steps up to ``score``, of the labelled source, with ``fit`` before and ``select`` after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.clustering.label_free import SELF_TRAINED_ROWS
from engine.errors import ConfigError
from engine.flow.clusters import make_clusters, partition_kind
from engine.flow.graph import make_committee, make_graph
from engine.flow.metric import allows_second_graph, project, second_graph
from engine.flow.rows import ingest, source_rows
from engine.methods.fitting import from_model
from engine.methods.model_card import Model
from engine.methods.registry import METHODS
from engine.methods.self_trained.adaptation import adapt
from engine.methods.self_trained.steps import Centre
from engine.partitions import OWN
from engine.partitions.curve import Curve
from engine.runs.step import Step, in_order
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.analysis import Analysis
from engine.steps.decisions import Answers, DecisionFile, Held, correct
from engine.steps.explain import Explain
from engine.steps.labels import Labels, OutsideFile
from engine.steps.source import Source


def store_stages(source: Source, settings: Settings) -> list[Stage]:
    """The one stage of a store: ingestion."""
    return in_order(ingest(source, settings))


def run_stages(
    source: Source,
    settings: Settings,
    model: Model | None = None,
    knn_graph: OutsideFile | None = None,
    labels: OutsideFile | None = None,
    committee: Sequence[Source] = (),
    decisions: DecisionFile | None = None,
) -> list[Stage]:
    """The stages from a source to labels and their analysis. ``labels`` (the truth) reach the analysis only."""
    method = METHODS[settings.method]
    if method.needs_model and model is None:
        raise ConfigError(f"method {settings.method} needs --model; asterism train makes one")
    rows, projected = source_rows(source, settings), None
    asked = settings.ingest.zero_vectors
    zeros = source.zero_vectors if source.zero_vectors and asked == "error" else asked
    answers = None
    if decisions is not None:
        answers = Answers(rows=rows, zero_vectors=zeros, decisions=decisions.digest, decisions_path=decisions.path)
    if model is not None and model.projects:
        if knn_graph is not None:
            raise ConfigError(
                f"{model.folder} has learned a metric, which a KNN graph made elsewhere knows nothing of; leave out "
                f"--knn-graph, or train a model with it"
            )
        projected = project(rows, settings, None, **from_model(model))
    if method.learns_in_runs and knn_graph is None:
        projected = project(rows, settings, Centre(vectors=rows))
    graph = make_graph(rows, settings, knn_graph, projected)
    graph = replace(graph, committee=make_committee(committee, settings, source.num_rows))
    in_two = model.nature.second_graph if model else method.learns_in_runs and knn_graph is None
    if in_two and allows_second_graph(rows, settings):
        graph = replace(graph, second=second_graph(rows, settings))
    scoring = method.score(graph, settings, model)
    if method.adapts and rows.num_rows <= SELF_TRAINED_ROWS:
        scoring = scoring._replace(score=adapt(graph, settings, scoring.score))
    if answers is not None and method.learned:
        scoring = scoring._replace(score=correct(scoring.score, answers, graph.order))
    roots = make_clusters(graph, settings, model, scoring.score)
    copies = unheld = scoring.copies
    found: Step[Any] = roots
    if answers is not None:
        found = Held(roots=roots, score=scoring.score, answers=answers, order=graph.order, copies=copies)
        unheld = None
    clusters = Labels(roots=found, rows=rows, order=graph.order, zero_vectors=zeros, copies=unheld)
    shown: dict[str, Any] = {"score": scoring.score, "order": graph.order, "learned": method.learned}
    explain = Explain(labels=clusters, copies=copies, **shown)
    truth = labels.given() if labels else {}
    curve, partition = None, partition_kind(settings, model)
    if partition != OWN and graph.num_rows <= settings.partition.curve_rows:
        step = settings.partition.step
        held: dict[str, Any] = {"copies": copies, "answers": answers}
        curve = Curve(roots=roots, seed=settings.seed, step=step, partition=partition, **held, **shown, **truth)
    analysis = Analysis(clusters=clusters, roots=roots, explain=explain, rows=rows, **shown, **truth)
    recalls = [member.recall for member in (graph, *graph.committee)]
    return in_order(*recalls, *scoring.further, explain, curve, analysis)
