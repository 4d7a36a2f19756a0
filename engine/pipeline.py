"""The whole data flow, top to bottom.

    source -> ingest -> knn (-> recall), by way of
           exact:      nothing
           partition:  cells_1 -> probes_1 -> order -> vertices -> near_1 -> join_1 -> check_1
                       -> cells_2 -> probes_2 -> sort_2 -> near_2 -> join_2 -> check_2 ...
           ivf:        quantiser -> assign -> order -> vertices
           -> a method's steps -> score
           -> [point] -> adjacency -> prune -> merge -> roots   (components)
                      or roots                      (propagation, density peaks, map equation; a method's own)
           -> labels -> explain -> analysis

Training runs the same steps up to ``score`` on the labelled source, with ``fit`` before and ``select`` after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from engine.config import Settings
from engine.errors import ConfigError, DataError
from engine.methods import METHODS, Graph, Model
from engine.methods.fitting import from_model
from engine.partitions import OWN, PARTITIONS, Clustered, Work
from engine.partitions.curve import Curve
from engine.runs.step import in_order
from engine.stages import Stage
from engine.steps import passes
from engine.steps.analysis import Analysis
from engine.steps.edges import Scores
from engine.steps.explain import Explain
from engine.steps.ingest import Ingest, Rows, StoredRows, Vectors
from engine.steps.knn import (
    Assign,
    CellNeighbors,
    ExactNeighbors,
    ImportedGraph,
    Knn,
    OrderCells,
    Quantiser,
    Recall,
    Truth,
    Vertices,
)
from engine.steps.labels import Labels, OutsideFile
from engine.steps.metric import LearnedMetric, Project
from engine.steps.source import Source
from engine.storage.formats import open_knn_graph
from engine.storage.remote import local_copy

MAX_ROWS = 2**31  # that int32 ids can number


def store_stages(source: Source, settings: Settings) -> list[Stage]:
    """A store: ingestion alone."""
    return in_order(_ingest(source, settings))


def run_stages(
    source: Source,
    settings: Settings,
    model: Model | None = None,
    knn_graph: OutsideFile | None = None,
    labels: OutsideFile | None = None,
    committee: Sequence[Source] = (),
) -> list[Stage]:
    """From source to labels and their analysis. ``labels`` (the truth) reach the analysis only."""
    method = METHODS[settings.method]
    if method.needs_model and model is None:
        raise ConfigError(f"method {settings.method} needs --model; asterism train makes one")
    rows, vectors = _rows(source, settings), None
    if model is not None and model.projects:
        if knn_graph is not None:
            raise ConfigError(
                f"{model.folder} has learned a metric, which a KNN graph made elsewhere knows nothing of; leave out "
                f"--knn-graph, or train a model with it"
            )
        vectors = _projected(rows, settings, None, **from_model(model))
    second = model.second_graph if model else method.learns_in_runs and knn_graph is None
    graph = make_graph(rows, settings, knn_graph, vectors)
    graph = replace(graph, committee=_committee(committee, settings, source.num_rows))
    if second and _two_graphs(source, settings):
        graph = replace(graph, second=_second_graph(rows, settings))
    scoring = method.score(graph, settings, model)
    roots = clustered(graph, settings, model, scoring.score)
    asked = settings.ingest.zero_vectors
    zeros = source.zero_vectors if source.zero_vectors and asked == "error" else asked
    clusters = Labels(roots=roots, rows=rows, order=graph.order, zero_vectors=zeros)
    shown: dict[str, Any] = {"score": scoring.score, "order": graph.order, "learned": method.learned}
    explain = Explain(labels=clusters, **shown)
    truth = labels.given() if labels else {}
    curve = None
    if graph.num_rows <= settings.partition.curve_rows and partition_kind(settings, model) != OWN:
        curve = Curve(
            roots=roots,
            seed=settings.seed,
            step=settings.partition.step,
            partition=partition_kind(settings, model),
            **shown,
            **truth,
        )
    analysis = Analysis(clusters=clusters, roots=roots, explain=explain, rows=rows, **shown, **truth)
    return in_order(graph.recall, *_recalls(graph), *scoring.further, explain, curve, analysis)


def training_stages(
    source: Source,
    settings: Settings,
    labels: OutsideFile,
    knn_graph: OutsideFile | None = None,
    committee: Sequence[Source] = (),
) -> list[Stage]:
    """From a labelled source to weights and operating points."""
    method, rows = METHODS[settings.method], _rows(source, settings)
    metric = vectors = None
    if method.metric_spaces and settings.metric.learn == "auto" and knn_graph is None:
        holdout = settings.train.holdout if method.metric_spaces == 1 else 0.0  # two spaces hold out each other
        metric = LearnedMetric(vectors=rows, seed=settings.seed, holdout=holdout, **labels.given())
        vectors = _projected(rows, settings, metric, spaces=method.metric_spaces)
    graph = make_graph(rows, settings, knn_graph, vectors)
    graph = replace(graph, metric=metric, committee=_committee(committee, settings, source.num_rows))
    if metric is not None and method.metric_spaces == 2 and _two_graphs(source, settings):
        graph = replace(graph, second=_second_graph(rows, settings))
    training = method.train(graph, settings, labels)
    return in_order(graph.recall, *_recalls(graph), *training.further, training.fit, training.select)


def make_graph(
    rows: Rows,
    settings: Settings,
    knn_graph: OutsideFile | None = None,
    projected: Project | None = None,
    prefix: str = "",
) -> Graph:
    """The KNN graph of the source's rows, or of the same ones ``projected``."""
    config, n = settings.knn, rows.num_rows
    if n < 2:
        raise DataError(f"{rows.path}: {n} row: clustering needs at least 2")
    if n >= MAX_ROWS:
        raise DataError(f"{rows.path}: {n:,} rows: neighbours are int32 ids, so {MAX_ROWS - 1:,} rows are the most")
    vectors: Vectors[Any] = projected or rows
    k = choose_k(settings, n)
    exact = config.mode == "exact" or (config.mode == "auto" and n <= config.exact_rows)
    if projected is not None and knn_graph is None and not exact:  # vertices hold the same in another order
        projected = vectors = replace(projected, scratch=True)
    samples = min(config.recall_samples, n)

    def truth_of(features: Vectors[Any], order: Any) -> Truth | None:
        if not samples:
            return None
        return Truth(
            prefix=prefix, features=features, rows=rows, order=order, k=knn_k, samples=samples, seed=settings.seed
        )

    knn_k = k
    if knn_graph is not None:
        width = open_knn_graph(local_copy(knn_graph.path), n).k
        knn_k = min(k, width)
        knn: Knn = ImportedGraph(
            prefix=prefix,
            num_rows=n,
            features=vectors,
            rows=rows,
            k=knn_k,
            digest=knn_graph.digest,
            width=width,
            path=knn_graph.path,
            path_version=knn_graph.version,
        )
        truth = truth_of(vectors, None)
    elif exact:
        knn = ExactNeighbors(prefix=prefix, num_rows=n, features=vectors, rows=rows, k=k)
        truth = truth_of(vectors, None)
    elif config.mode == "ivf":
        knn = _in_cells(rows, vectors, settings, k, prefix)
        truth = truth_of(knn.features, knn.order)
    else:
        knn, truth = _in_passes(rows, vectors, settings, k, prefix, truth_of)
    recall = Recall(prefix=prefix, knn=knn, truth=truth) if truth else None
    originals = rows if projected is not None else None
    return Graph(
        rows=rows, features=knn.features, knn=knn, order=knn.order, originals=originals, recall=recall, prefix=prefix
    )


def _in_cells(rows: Rows, vectors: Vectors[Any], settings: Settings, k: int, prefix: str) -> CellNeighbors:
    """Mode ivf: centroids trained by faiss, exact search in the probed cells."""
    config, n = settings.knn, rows.num_rows
    cells = min(config.num_cells or max(1, round(1.3 * n**0.5)), n)
    quantiser = Quantiser(
        prefix=prefix,
        vectors=vectors,
        num_cells=cells,
        train_rows_per_cell=config.train_rows_per_cell or 64,
        seed=settings.seed,
    )
    assign = Assign(prefix=prefix, num_rows=n, vectors=vectors, quantiser=quantiser)
    order = OrderCells(prefix=prefix, num_rows=n, assign=assign, num_cells=cells)
    vertices = Vertices(
        prefix=prefix, num_rows=n, dim=vectors.dim, vectors=vectors, order=order, stored=_stored_bytes(settings)
    )
    return CellNeighbors(
        prefix=prefix,
        num_rows=n,
        features=vertices,
        rows=rows,
        k=k,
        order=order,
        quantiser=quantiser,
        num_probes=min(config.num_probes or 32, cells),
    )


def _in_passes(
    rows: Rows,
    vectors: Vectors[Any],
    settings: Settings,
    k: int,
    prefix: str,
    truth_of: Callable[[Vectors[Any], Any], Truth | None],
) -> tuple[passes.JoinedNeighbors, Truth | None]:
    """Mode partition: as many passes as the recall asks for, then the similarities of the last one's neighbours."""
    config, n = settings.knn, rows.num_rows
    cells = min(config.num_cells or min(-(-n // passes.listed_neighbors(k)), passes.MOST_CELLS), n)
    most = config.max_passes or (4 if n <= passes.FOUR_PASSES_ROWS else 3)
    trained: dict[str, Any] = {
        "num_cells": cells,
        "train_rows_per_cell": config.train_rows_per_cell or 8,
        "seed": settings.seed,
    }
    num_probes = min(config.num_probes or 4, cells)
    order = vertices = truth = joined = check = None
    for number in range(1, most + 1):
        again: dict[str, Any] = {"prefix": prefix} | ({"unless": check} if check else {})
        origin = vertices or vectors
        centroids = passes.TrainedCells(vectors=origin, of_pass=number, **trained, **again)
        probes = passes.Probes(
            num_rows=n, vectors=origin, cells=centroids, num_probes=num_probes, scratch=True, **again
        )
        coded: passes.CodedVertices | passes.SortedCodes
        if vertices is None:
            order = passes.OrderProbed(prefix=prefix, num_rows=n, probes=probes)
            coded = vertices = passes.CodedVertices(
                prefix=prefix, num_rows=n, dim=vectors.dim, vectors=vectors, order=order, stored=_stored_bytes(settings)
            )
        else:
            coded = passes.SortedCodes(num_rows=n, vertices=vertices, probes=probes, scratch=True, **again)
        near = passes.Near(
            num_rows=n,
            coded=coded,
            probes=probes,
            order=order if number == 1 else None,
            joined=joined,
            k=k,
            scratch=True,
            **again,
        )
        joined = passes.Join(
            num_rows=n,
            vertices=vertices,
            near=near,
            probes=probes,
            scratch=True,
            instead=joined if check else None,
            **again,
        )
        if number < most:
            truth = truth or truth_of(vertices, order)
        if truth is not None and number < most:
            check = passes.Check(
                joined=joined, vertices=vertices, truth=truth, recall=config.recall, instead=check, **again
            )
    assert vertices is not None
    assert order is not None
    assert joined is not None
    knn = passes.JoinedNeighbors(
        prefix=prefix, num_rows=n, features=vertices, rows=rows, k=k, joined=joined, order=order
    )
    return knn, truth or truth_of(vertices, order)


def _rows(source: Source, settings: Settings) -> Rows:
    """The source's rows; a store holds them already."""
    if source.store:
        return StoredRows(num_rows=source.num_rows, dim=source.dim, folder=source.store, path=source.path)
    return _ingest(source, settings)


def _ingest(source: Source, settings: Settings) -> Ingest:
    return Ingest(
        num_rows=source.num_rows,
        dim=source.dim,
        dtype=settings.ingest.dtype,
        zero_vectors=settings.ingest.zero_vectors,
        item_bytes=source.item_bytes,
        spec=dict(source.spec),
        source_version=source.version,
        path=source.path,
    )


def _projected(rows: Rows, settings: Settings, metric: LearnedMetric | None, spaces: int = 1, **given: Any) -> Project:
    return Project(
        num_rows=rows.num_rows, dim=spaces * rows.dim, vectors=rows, metric=metric, dtype=settings.ingest.dtype, **given
    )


def _second_graph(rows: Rows, settings: Settings) -> Callable[[LearnedMetric | None], Graph]:
    """What makes a further graph of the same rows: of the vectors as they are, or in a metric."""

    def make(metric: LearnedMetric | None) -> Graph:
        projected = _projected(rows, settings, metric, prefix="second_") if metric else None
        return make_graph(rows, settings, None, projected, "second_")

    return make


def _committee(committee: Sequence[Source], settings: Settings, num_rows: int) -> tuple[Graph, ...]:
    """A KNN graph of each further source of the same rows; names of its steps begin with the member's number."""
    settings = settings.model_copy(update={"knn": settings.knn.model_copy(update={"recall_samples": 0})})
    graphs = []
    for number, source in enumerate(committee, start=1):
        if source.num_rows != num_rows:
            raise DataError(
                f"{source.path}: {source.num_rows:,} rows, the base has {num_rows:,}; expected the same rows"
            )
        prefix, rows = f"member_{number}_", _rows(source, settings)
        if not isinstance(rows, StoredRows):
            rows = replace(rows, prefix=prefix, source=source.digest)
        graphs.append(make_graph(rows, settings, prefix=prefix))
    return tuple(graphs)


def clustered(graph: Graph, settings: Settings, model: Model | None, score: Scores) -> Clustered:
    """From scored edges to clusters: a method's own, or a partition."""
    method = METHODS[settings.method]
    own = method.cluster(graph, settings, model, score)
    if own is not None:
        return own
    kind = partition_kind(settings, model)
    stored = dict(model.operating_points.get(kind, {})) if model else {}
    if not model and method.min_score is not None:
        stored = {"min_score": method.min_score}
    work = Work(
        score=score,
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


def choose_k(settings: Settings, num_rows: int) -> int:
    """K, refused if asked for and not below N; the default shrinks to N - 1."""
    asked = "knn" in settings.model_fields_set and "k" in settings.knn.model_fields_set
    if asked and settings.knn.k >= num_rows:
        raise ConfigError(f"knn.k = {settings.knn.k} needs more than {settings.knn.k} rows, the source has {num_rows}")
    return min(settings.knn.k, num_rows - 1)


def _two_graphs(source: Source, settings: Settings) -> bool:
    return settings.metric.learn == "auto" and source.num_rows <= settings.metric.second_graph_rows


def _stored_bytes(settings: Settings) -> int:
    return 2 if settings.ingest.dtype == "float16" else 4


def _recalls(graph: Graph) -> list[Recall | None]:
    return [member.recall for member in graph.committee]
