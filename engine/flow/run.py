"""The steps of a run, from the source to labels and what the report says of them.

    source -> ingest -> knn (-> recall), by way of
           exact:      nothing
           partition:  cells_1 -> probes_1 -> order -> vertices -> near_1 -> join_1 -> check_1
                       -> cells_2 -> probes_2 -> sort_2 -> near_2 -> join_2 -> check_2 ...
           ivf:        quantiser -> assign -> order -> vertices
           -> a method's steps -> score
           -> [point] -> adjacency -> prune -> merge -> roots   (components)
                      or roots                      (propagation, density peaks, map equation; a method's own)
           -> labels -> levels
                     -> crossing -> row_evidence -> explain -> question_tree -> question_evidence -> questions
                     -> crossing -> figures  -> analysis

Training has the same steps up to ``score``, of the labelled source, with ``fit`` before and ``select`` after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from engine.clustering.label_free import SELF_TRAINED_ROWS
from engine.errors import ConfigError
from engine.flow.clusters import make_clusters, partition_kind
from engine.flow.graph import make_committee, make_graph
from engine.flow.metric import allows_second_graph, project, second_graph
from engine.flow.rows import ingest, source_rows
from engine.methods.base import Graph
from engine.methods.fitting import from_model
from engine.methods.model_card import Model
from engine.methods.registry import METHODS
from engine.methods.self_trained.adaptation import what_opinions_say
from engine.methods.self_trained.levels import Levels
from engine.methods.self_trained.method import SelfTrained
from engine.methods.self_trained.odds import Saying
from engine.methods.self_trained.steps import Centre
from engine.partitions import OWN, PARTITIONS
from engine.partitions.curve import Curve
from engine.runs.step import Step, in_order, only_if_needed
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.analysis import Analysis
from engine.steps.copies import Copies, NoCopies
from engine.steps.crossing import Crossing
from engine.steps.decisions import Answers, DecisionFile, Held, correct
from engine.steps.edges import Scores
from engine.steps.explain import Evidence, Explain
from engine.steps.figures import Figures
from engine.steps.ingest import Rows
from engine.steps.labels import Labels, OutsideFile
from engine.steps.questions import QuestionEvidence, Questions, QuestionTree
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
    """The stages from a source to labels and their analysis. ``labels`` (the truth) reach the analysis only.

    A model that opinions without labels find far off is left: the run goes on as if none had been given.
    """
    method = METHODS[settings.method]
    if method.needs_model and model is None:
        raise ConfigError(f"method {settings.method} needs --model; asterism train makes one")
    rows = source_rows(source, settings)
    asked = settings.ingest.zero_vectors
    zeros = source.zero_vectors if source.zero_vectors and asked == "error" else asked
    answers = None
    if decisions is not None:
        answers = Answers(rows=rows, zero_vectors=zeros, decisions=decisions.digest, decisions_path=decisions.path)
    truth = labels.given() if labels else {}
    given = Given(rows, zeros, knn_graph, make_committee(committee, settings, source.num_rows), answers, truth)
    found = _cluster(given, settings, model)
    if method.adapts and rows.num_rows <= SELF_TRAINED_ROWS:
        found = _or_without_model(given, settings, found)
    graph, copies, score = found.graph, found.copies, found.score
    roots = found.roots
    unheld = copies
    if answers is not None:
        roots = Held(roots=roots, score=score, answers=answers, order=graph.order, copies=copies)
        unheld = None
    clusters = Labels(roots=roots, rows=rows, order=graph.order, zero_vectors=zeros, copies=unheld)
    shown: dict[str, Any] = {"score": score, "order": graph.order, "learned": method.learned}
    read: dict[str, Any] = {**shown, "num_rows": graph.num_rows, "crossing": found.crossing, "scratch": True}
    evidence = Evidence(labels=clusters, copies=copies, **read)
    explain = Explain(labels=clusters, evidence=evidence, order=graph.order)
    figures = Figures(clusters=clusters, opinions=found.opinions, **read, **truth)
    analysis = Analysis(
        clusters=clusters,
        roots=found.roots,
        crossing=found.crossing,
        figures=figures,
        explain=explain,
        rows=rows,
        **shown,
        **truth,
    )
    recalls = [member.recall for member in (graph, *graph.committee)]
    of_clusters: dict[str, Any] = {"labels": clusters, "order": graph.order}
    tree = QuestionTree(evidence=evidence, answers=answers, **of_clusters)
    say = QuestionEvidence(
        explain=explain,
        tree=tree,
        num_rows=graph.num_rows,
        score=score,
        learned=method.learned,
        copies=copies,
        scratch=True,
        **of_clusters,
    )
    questions = Questions(explain=explain, tree=tree, evidence=say, answers=answers, **of_clusters)
    levels = None
    if isinstance(found.opinions, Saying) and copies is not None and answers is None:  # which another level would break
        first = found.opinions.first
        levels = Levels(clusters=clusters, first=first, by_evidence=first.by_evidence, order=graph.order, copies=copies)
    return in_order(*recalls, *found.further, levels, explain, found.curve, analysis, questions)


class Given(NamedTuple):
    """What a run clusters, whatever the method: ``truth`` has the fields of the labels that score it."""

    rows: Rows
    zero_vectors: str
    knn_graph: OutsideFile | None
    committee: tuple[Graph, ...]
    answers: Answers | None
    truth: Mapping[str, Any]


class Found(NamedTuple):
    """The steps that cluster, as a method has them; ``further`` and ``opinions`` as in ``Scoring``."""

    graph: Graph
    score: Scores
    crossing: Crossing
    copies: Copies | None
    opinions: Step[Any] | None
    roots: Step[Any]
    curve: Curve | None
    further: tuple[Step[Any] | None, ...]


def _cluster(given: Given, settings: Settings, model: Model | None) -> Found:
    """The graph, the scores of the settings' method, and the clusters."""
    method, rows, projected = METHODS[settings.method], given.rows, None
    if model is not None and model.projects:
        if given.knn_graph is not None:
            raise ConfigError(
                f"{model.folder} has learned a metric, which a KNN graph made elsewhere knows nothing of; leave out "
                f"--knn-graph, or train a model with it"
            )
        projected = project(rows, settings, None, **from_model(model))
    if method.learns_in_runs and given.knn_graph is None:
        projected = project(rows, settings, Centre(vectors=rows))
    graph = replace(make_graph(rows, settings, given.knn_graph, projected), committee=given.committee)
    in_two = model.nature.second_graph if model else method.learns_in_runs and given.knn_graph is None
    if in_two and allows_second_graph(rows, settings):
        graph = replace(graph, second=second_graph(rows, settings))
    scoring = method.score(graph, settings, model)
    if given.answers is not None and method.learned:
        scoring = scoring._replace(score=correct(scoring.score, given.answers, graph.order))
    crossing = Crossing(num_rows=graph.num_rows, score=scoring.score, scratch=True)
    roots = make_clusters(graph, settings, model, scoring.score, crossing)
    curve, partition = None, partition_kind(settings, model)
    if partition != OWN and graph.num_rows <= settings.partition.curve_rows:
        curve = Curve(
            roots=roots,
            score=scoring.score,
            order=graph.order,
            learned=method.learned,
            seed=settings.seed,
            step=settings.partition.step if PARTITIONS[partition].takes_step else 0.0,
            partition=partition,
            copies=scoring.copies,
            rows=rows,
            zero_vectors=given.zero_vectors,
            answers=given.answers,
            **given.truth,
        )
    return Found(graph, scoring.score, crossing, scoring.copies, scoring.opinions, roots, curve, scoring.further)


def _or_without_model(given: Given, settings: Settings, modelled: Found) -> Found:
    """What a model gives, or what the run would give without one if opinions find the model far off."""
    said = what_opinions_say(modelled.graph, settings, modelled.score)
    without = settings.model_copy(update={"method": SelfTrained.name})
    found = _cluster(given._replace(committee=()), without, None)
    none = NoCopies(num_rows=given.rows.num_rows)
    pairs: list[tuple[Step[Any] | None, Step[Any] | None]] = [
        (found.score, modelled.score),
        (found.crossing, modelled.crossing),
        (found.copies, none),
        (found.roots, modelled.roots),
        (found.graph.order, modelled.graph.order),
        (found.curve, modelled.curve),
        *((step, None) for step in (found.graph.recall, *found.further)),
    ]
    kept = [said, given.rows, given.answers, *(other for _, other in pairs)]
    copied = only_if_needed(pairs, said, kept, prefix="without_model_")
    score, crossing, copies, roots, order, curve = copied[:6]
    assert isinstance(score, Scores)
    assert isinstance(crossing, Crossing)
    assert isinstance(roots, Step)
    graph = replace(modelled.graph, order=order)
    return Found(graph, score, crossing, copies, None, roots, curve, (*modelled.further, *copied[6:]))
