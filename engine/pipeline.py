"""The whole data flow, top to bottom.

    source -> ingest -> knn (-> recall), by way of
           exact:      nothing
           partition:  cells_1 -> probes_1 -> order -> vertices -> near_1 -> join_1 -> check_1
                       -> cells_2 -> probes_2 -> sort_2 -> near_2 -> join_2 -> check_2 ...
           ivf:        quantiser -> assign -> order -> vertices
           -> a method's stages -> score
           -> [point] -> adjacency -> prune -> merge -> roots   (components)
                      or roots                      (propagation, density peaks, map equation; a method's own)
           -> labels -> explain -> analysis

Training runs the same stages up to ``score`` on the labelled source, with ``fit`` before and ``select`` after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.clustering.evidence import LEAST_COSINE, LEAST_PROBABILITY
from engine.config import Settings
from engine.errors import ConfigError, DataError
from engine.ingest import Source, files_at, version_of
from engine.methods import METHODS, GraphShape, Model
from engine.methods.base import SecondGraph
from engine.plan import CHUNK_ROWS, Cost, Stage, name_apart
from engine.stages import analysis, curve, explain, ingest, knn, metric, partition, passes, point
from engine.storage.formats import open_knn_graph
from engine.storage.manifest import file_checksum
from engine.storage.remote import absolute, local_copy

GraphMembers = tuple[Mapping[str, str], ...]
MAX_ROWS = 2**31  # that int32 ids can number


@dataclass(frozen=True)
class OutsideFile:
    """A labels file or KNN graph beside the source: its content's digest enters fingerprints, its path does not."""

    path: str
    digest: str
    column: str | None = None
    version: str = ""

    @classmethod
    def describe(cls, path: str | Path | None, column: str | None = None) -> OutsideFile | None:
        """Checksum a file, or the files of a folder, at a path or URL; ``None`` for no path."""
        if path is None:
            return None
        found = local_copy(path)
        files = files_at(found)
        version = version_of(found, files)
        return cls(absolute(path), "+".join(file_checksum(file) for file in files), column, version)


def store_stages(source: Source, settings: Settings) -> list[Stage]:
    """A store: ingestion alone."""
    config = settings.ingest
    params = {"zero_vectors": config.zero_vectors, "dtype": config.dtype}
    cost = ingest.cost(source.num_rows, source.dim, source.item_bytes, config.dtype, source.path)
    where = {"spec": dict(source.spec), "version": source.version}
    return [Stage("ingest", "engine.stages.ingest:run", ingest.VERSION, params, {}, source.num_rows, cost, where)]


def graph_stages(
    source: Source, settings: Settings, knn_graph: OutsideFile | None, projection: list[Stage] | None = None
) -> tuple[list[Stage], GraphShape]:  # fmt: skip
    """From source to KNN graph; a store stands for its ``ingest`` stage.

    The last stage of ``projection`` writes the vectors to use, in place of the source's.
    """
    config, n, dim = settings.knn, source.num_rows, source.dim
    if n < 2:
        raise DataError(f"{source.path}: {n} row: clustering needs at least 2")
    if n >= MAX_ROWS:
        raise DataError(f"{source.path}: {n:,} rows: neighbours are int32 ids, so {MAX_ROWS - 1:,} rows are the most")
    stages = [] if source.store else store_stages(source, settings)
    rows = vectors = source.store or "ingest"
    if projection:
        stages, vectors, dim = stages + projection, projection[-1].name, projection[-1].params["width"]
    stored = 2 if settings.ingest.dtype == "float16" else 4
    k = choose_k(settings, n)
    shape = GraphShape(n, dim, k, vectors, None, originals=rows if projection else None)
    if knn_graph is not None:
        width = open_knn_graph(local_copy(knn_graph.path), n).k
        shape = replace(shape, k=min(k, width))
        params = {"k": shape.k, "digest": knn_graph.digest}
        inputs, cost = {"features": vectors, "ingest": rows}, knn.import_cost(n, dim, width)
        where = {"path": knn_graph.path, "version": knn_graph.version}
        stages.append(Stage("knn", "engine.stages.knn:import_graph", knn.VERSION, params, inputs, n, cost, where))
    elif config.mode == "exact" or (config.mode == "auto" and n <= config.exact_rows):
        inputs, cost = {"features": vectors, "ingest": rows}, knn.search_cost(n, dim, k, n)
        stages.append(Stage("knn", "engine.stages.knn:search", knn.VERSION, {"k": k}, inputs, n, cost))
    elif config.mode == "ivf":
        cells = min(config.num_cells or max(1, round(1.3 * n**0.5)), n)
        probes = min(config.num_probes or 32, cells)
        sample = config.train_rows_per_cell or 64
        train = {"num_cells": cells, "train_rows_per_cell": sample, "seed": settings.seed}
        search = {"k": k, "num_probes": probes}
        inputs = {"ingest": rows, "features": "vertices", "order": "order", "quantiser": "quantiser"}
        stages += [
            _single("quantiser", "engine.stages.knn:train_quantiser", knn.VERSION, train, {"ingest": vectors},
                    knn.quantiser_cost(cells, dim, sample)),
            Stage("assign", "engine.stages.knn:assign", knn.VERSION, {}, {"ingest": vectors, "quantiser": "quantiser"},
                  n, knn.assign_cost(n, dim, cells)),
            _single("order", "engine.stages.knn:order_cells", knn.VERSION, {"num_cells": cells},
                    {"assign": "assign"}, knn.order_cost(n)),
            Stage("vertices", "engine.stages.knn:order_features", knn.VERSION, {},
                  {"ingest": vectors, "order": "order"}, n, knn.vertices_cost(n, dim, stored)),
            Stage("knn", "engine.stages.knn:search", knn.VERSION, search, inputs, n,
                  knn.search_cost(n, dim, k, probes * n / cells)),
        ]  # fmt: skip
        shape = replace(shape, features="vertices", order="order")
    else:
        shape = replace(shape, features="vertices", order="order")
        stages += _partition_passes(shape, settings, vectors, rows, stored)
    if projection and shape.features == "vertices":  # which holds the same in another order
        stages = [replace(stage, scratch=True) if stage.name == vectors else stage for stage in stages]
    samples = min(settings.knn.recall_samples, n)
    if samples:
        inputs = {"features": shape.features, "ingest": rows} | shape.ordered
        params = {"k": shape.k, "samples": samples, "seed": settings.seed}
        truth = _single("truth", "engine.stages.knn:find_truth", knn.VERSION, params, inputs,
                        knn.truth_cost(n, dim, shape.k, samples))  # fmt: skip
        place = next((i for i, stage in enumerate(stages) if "truth" in stage.inputs.values()), len(stages))
        stages.insert(place, truth)
        stages.append(
            _single("recall", "engine.stages.knn:measure_recall", knn.VERSION, {"k": shape.k},
                    {"knn": "knn", "truth": "truth"}, knn.recall_cost(samples, shape.k))
        )  # fmt: skip
    return stages, shape


def committee_stages(
    committee: Sequence[Source], settings: Settings, num_rows: int
) -> tuple[list[Stage], GraphMembers]:
    """From further sources of the same rows to a KNN graph each; names of stages begin with the member's number."""
    settings = settings.model_copy(update={"knn": settings.knn.model_copy(update={"recall_samples": 0})})
    stages: list[Stage] = []
    members = []
    for number, source in enumerate(committee, start=1):
        if source.num_rows != num_rows:
            raise DataError(
                f"{source.path}: {source.num_rows:,} rows, the base has {num_rows:,}; expected the same rows"
            )
        made, shape = graph_stages(source, settings, None)
        named, names = name_apart(made, f"member_{number}_", member=source.digest)
        stages += named
        vectors = source.store or names["ingest"]
        ordered = {"order": names[shape.order]} if shape.order else {}
        members.append({"features": vectors, "knn": names["knn"]} | ordered)
    return stages, tuple(members)


def second_graph(source: Source, settings: Settings, metric_stage: str | None) -> SecondGraph:
    """A further graph of the same rows: of the vectors as they are, or in the metric that a stage writes."""
    projection = [_projection(source, settings, {}, {"metric": metric_stage}, {}, 1)] if metric_stage else None
    stages, shape = graph_stages(source, settings, None, projection)
    return SecondGraph(tuple(stage for stage in stages if stage.name != "ingest"), shape)


def _partition_passes(
    shape: GraphShape, settings: Settings, vectors: str, rows: str, stored: int
) -> list[Stage]:  # fmt: skip
    """Mode partition: as many passes as the recall asks for, then the similarities of the last one's neighbours."""
    config, n, dim = settings.knn, shape.num_rows, shape.dim
    listed, version, module = passes.listed_neighbors(shape.k), passes.VERSION, "engine.stages.passes"
    cells = min(config.num_cells or min(-(-n // listed), passes.MOST_CELLS), n)
    probes = min(config.num_probes or 4, cells)
    sample = config.train_rows_per_cell or 8
    most = config.max_passes or (4 if n <= passes.FOUR_PASSES_ROWS else 3)
    stages: list[Stage] = []
    for number in range(1, most + 1):
        first = number == 1
        origin = vectors if first else "vertices"
        before = {"order": "order"} if first else {"joined": f"join_{number - 1}"}
        train = {"num_cells": cells, "train_rows_per_cell": sample, "seed": settings.seed, "pass": number}
        named = {name: f"{name}_{number}" for name in ("cells", "probes", "sort", "near", "join", "check")}
        search = {"k": shape.k, "pass": number}
        graph = {"vertices": "vertices", "near": named["near"], "probes": named["probes"]}
        made = [
            _single(named["cells"], f"{module}:train_cells", version, train, {"features": origin},
                    passes.cells_cost(cells, dim, sample, n)),
            Stage(named["probes"], f"{module}:probe_cells", version, {"num_probes": probes},
                  {"features": origin, "cells": named["cells"]}, n, passes.probes_cost(n, dim, cells, probes)),
        ]  # fmt: skip
        if first:
            made += [
                _single("order", f"{module}:order_cells", version, {}, {"probes": named["probes"]},
                        knn.order_cost(n)),
                Stage("vertices", f"{module}:order_features", version, {}, {"ingest": vectors, "order": "order"}, n,
                      passes.vertices_cost(n, dim, stored)),
            ]  # fmt: skip
        else:
            made.append(
                Stage(named["sort"], f"{module}:sort_codes", version, {},
                      {"vertices": "vertices", "probes": named["probes"]}, n, passes.sort_cost(n, dim))
            )  # fmt: skip
        made += [
            Stage(named["near"], f"{module}:search_cells", version, search,
                  {"sorted": "vertices" if first else named["sort"], "probes": named["probes"]} | before, n,
                  passes.near_cost(n, dim, cells, probes, listed if first else passes.joined_neighbors(shape.k))),
            Stage(named["join"], f"{module}:join", version, search, graph, n, passes.join_cost(n, dim, shape.k)),
        ]  # fmt: skip
        if config.recall_samples and number < most:
            made.append(
                _single(named["check"], f"{module}:check_recall", version, {"recall": config.recall},
                        {"joined": named["join"], "vertices": "vertices", "truth": "truth"},
                        passes.check_cost(config.recall_samples, shape.k))
            )  # fmt: skip
        scratch = {named[name] for name in ("probes", "sort", "near", "join")}
        made = [replace(stage, scratch=stage.name in scratch) for stage in made]
        if not first and config.recall_samples:
            check = f"check_{number - 1}"
            stands_in = {named["join"]: f"join_{number - 1}", named["check"]: check}
            made = [replace(stage, unless=check, instead=stands_in.get(stage.name, "")) for stage in made]
        stages += made
    inputs = {"joined": f"join_{most}", "vertices": "vertices", "ingest": rows, "order": "order"}
    inputs["features"] = "vertices"
    stages.append(
        Stage("knn", f"{module}:write_similarities", version, {"k": shape.k}, inputs, n,
              passes.similarities_cost(n, dim, shape.k))
    )  # fmt: skip
    return stages


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
    vectors = source.store or "ingest"
    projection = []
    if model is not None and "shrinkage" in model.facts:
        if knn_graph is not None:
            raise ConfigError(
                f"{model.folder} has learned a metric, which a KNN graph made elsewhere knows nothing of; leave out "
                f"--knn-graph, or train a model with it"
            )
        projection = [_projection(source, settings, {"model": model.digest}, {}, {"weights": model.weights}, 1)]
    stages, shape = graph_stages(source, settings, knn_graph, projection)
    further, members = committee_stages(committee, settings, source.num_rows)
    second = None
    if model is not None and model.facts.get("second_graph") and _two_graphs(source, settings):
        second = second_graph(source, settings, None)
    elif model is None and method.first_metric and knn_graph is None and _two_graphs(source, settings):
        second = second_graph(source, settings, method.first_metric)
    shape = replace(shape, committee=members, second=second)
    stages += further + method.scoring_stages(shape, settings, model)
    stages += partition_stages(shape, settings, model)
    asked = settings.ingest.zero_vectors
    zeros = {"zero_vectors": source.zero_vectors if source.zero_vectors and asked == "error" else asked}
    inputs = {"roots": "roots", "ingest": vectors} | shape.ordered
    stages.append(
        _single("labels", "engine.stages.partition:label_rows", partition.VERSION, zeros, inputs,
                partition.labels_cost(shape.num_rows))
    )  # fmt: skip
    inputs = {"labels": "labels", "score": "score"} | shape.ordered
    stages.append(
        _single("explain", "engine.stages.explain:run", explain.VERSION, {"learned": method.learned}, inputs,
                explain.cost(shape.num_rows, shape.k))
    )  # fmt: skip
    params = {"labels": labels.digest if labels else None, "learned": method.learned}
    where = {"labels": labels.path, "column": labels.column} if labels else {}
    inputs = {"labels": "labels", "roots": "roots", "score": "score", "explain": "explain", "ingest": vectors}
    inputs |= shape.ordered
    if shape.num_rows <= settings.partition.curve_rows and partition_kind(settings, model) != "own":
        given = params | {"num_vertices": shape.num_rows, "seed": settings.seed, "step": settings.partition.step,
                          "partition": partition_kind(settings, model)}  # fmt: skip
        scored = {"roots": "roots", "score": "score"} | shape.ordered
        stages.append(
            _single("curve", "engine.stages.curve:run", curve.VERSION, given, scored,
                    curve.cost(shape.num_rows, shape.k), where)
        )  # fmt: skip
    cost = analysis.cost(shape.num_rows, shape.k, labelled=labels is not None)
    stages.append(_single("analysis", "engine.stages.analysis:run", analysis.VERSION, params, inputs, cost, where))
    return stages


def partition_kind(settings: Settings, model: Model | None) -> str:
    """The partition that ``settings`` mean: as set, as the model prefers, or by the kind of scores."""
    if METHODS[settings.method].clusters_itself:
        return "own"
    if settings.partition.method != "auto":
        return settings.partition.method
    if model:
        return model.preferred
    return "map_equation" if METHODS[settings.method].learned else "propagation"


def partition_stages(shape: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
    """From the edge table to ``roots``: components after pruning, propagation, density peaks, or the map equation."""
    config, n, k, method = settings.partition, shape.num_rows, shape.k, METHODS[settings.method]
    own = method.clustering_stages(shape, settings, model)
    if own:
        return own
    kind = partition_kind(settings, model)
    stored = dict(model.operating_points.get(kind, {})) if model else {}
    if not model and method.min_score is not None:
        stored = {"min_score": method.min_score}
    if kind == "map_equation":
        return [_map_equation_stage(shape, settings, stored, learned=method.learned)]
    bias = {"precision_bias": config.precision_bias, "learned": method.learned}
    second = {"components": ("min_intimacy",), "propagation": ("max_size",), "density_peaks": ()}[kind]
    names = ("min_score", *second)
    given = {name: stored.get(name) if (value := getattr(config, name)) is None else value for name in names}
    if kind == "components" and given["min_intimacy"] is None:
        given["min_intimacy"] = 0.0
    stages, chosen = [], {}
    if any(value is None for value in given.values()):
        walk, inputs = {"step": config.step}, {"knn": "knn"}
        inputs |= {"score": "score"} if model or method.learned else {"features": shape.features}
        stages.append(_single("point", "engine.stages.point:run", point.VERSION, walk, inputs, point.cost(n, k)))
        chosen = {"point": "point"}
    version = partition.VERSION
    if kind == "propagation":
        params = {"point": given, "step": config.step, "num_vertices": n} | bias
        stages.append(
            _single("roots", "engine.stages.partition:propagation", version, params, {"score": "score"} | chosen,
                    partition.propagation_cost(n, k))
        )  # fmt: skip
        return stages
    params = {"point": given, "num_vertices": n} | bias
    inputs = {"score": "score"} | chosen
    if kind == "density_peaks":
        cost = partition.density_peaks_cost(n, k)
        return [*stages, _single("roots", "engine.stages.partition:density_peaks", version, params, inputs, cost)]
    if given["min_intimacy"]:
        cost = partition.adjacency_cost(n, k)
        adjacency = _single("adjacency", "engine.stages.partition:kept_adjacency", version, params, inputs, cost)
        stages.append(replace(adjacency, scratch=True))
        inputs = inputs | {"adjacency": "adjacency"}
    width = CHUNK_ROWS * partition.FAN_IN
    ranges = config.union_find_ranges or -(-n // partition.RANGE_ROWS)
    stages += [
        Stage("prune", "engine.stages.partition:prune", version, params, inputs, n,
              partition.prune_cost(n, k, intimate="adjacency" in inputs)),
        Stage("merge", "engine.stages.partition:merge", version, {}, {"prune": "prune"}, n,
              partition.merge_cost(n), granule=width),
        _single("roots", "engine.stages.partition:components", version, params, {"merge": "merge"} | chosen,
                partition.roots_cost(n, ranges), {"ranges": ranges}),
    ]  # fmt: skip
    return stages


def _map_equation_stage(
    shape: GraphShape, settings: Settings, stored: Mapping[str, float], *, learned: bool
) -> Stage:  # fmt: skip
    config, num_rows = settings.partition, shape.num_rows
    weight = config.weight
    if weight == "auto":
        weight = "log_odds" if learned else "exponential"
    if weight == "log_odds" and not learned:
        raise ConfigError(
            "partition.weight log_odds needs probabilities that a method has learned; "
            "with cosines use exponential or score"
        )
    least = config.min_score
    if least is None:
        least = stored.get("min_score", LEAST_PROBABILITY) if learned else LEAST_COSINE
    point: dict[str, Any] = {"min_score": least, "weight": weight}
    if weight == "exponential":
        point["bandwidth"] = config.bandwidth
    params = {"point": point, "num_vertices": num_rows, "seed": settings.seed, "learned": learned,
              "precision_bias": config.precision_bias}  # fmt: skip
    offered = min(shape.k, settings.score.max_edges_per_vertex or shape.k)
    return _single("roots", "engine.stages.partition:modules", partition.VERSION, params, {"score": "score"},
                   partition.modules_cost(num_rows, offered))  # fmt: skip


def training_stages(
    source: Source, settings: Settings, labels: OutsideFile, knn_graph: OutsideFile | None = None,
    committee: Sequence[Source] = (),
) -> list[Stage]:  # fmt: skip
    """From a labelled source to weights and operating points."""
    method = METHODS[settings.method]
    where = {"labels": labels.path, "column": labels.column}
    projection = []
    if method.metric_spaces and settings.metric.learn == "auto" and knn_graph is None:
        vectors = {"features": source.store or "ingest"}
        holdout = settings.train.holdout if method.metric_spaces == 1 else 0.0  # two spaces hold out each other
        params = {"labels": labels.digest, "seed": settings.seed, "holdout": holdout}
        cost = metric.learn_cost(source.num_rows, source.dim)
        projection = [
            _single("metric", "engine.stages.metric:learn", metric.VERSION, params, vectors, cost, where),
            _projection(source, settings, {}, {"metric": "metric"}, {}, method.metric_spaces),
        ]
    stages, shape = graph_stages(source, settings, knn_graph, projection)
    further, members = committee_stages(committee, settings, source.num_rows)
    shape = replace(shape, metric=projection[0].name if projection else None, committee=members)
    if projection and method.metric_spaces == 2 and _two_graphs(source, settings):
        shape = replace(shape, second=second_graph(source, settings, None))
    return stages + further + method.training_stages(shape, settings, where | {"digest": labels.digest})


def _two_graphs(source: Source, settings: Settings) -> bool:
    return settings.metric.learn == "auto" and source.num_rows <= settings.metric.second_graph_rows


def _projection(
    source: Source, settings: Settings, params: Mapping[str, Any], learned: Mapping[str, str],
    where: Mapping[str, Any], spaces: int,
) -> Stage:  # fmt: skip
    dtype, n, width = settings.ingest.dtype, source.num_rows, spaces * source.dim
    inputs = {"vectors": source.store or "ingest", **learned}
    cost = metric.project_cost(n, source.dim, width, dtype)
    given = {"dtype": dtype, "width": width, **params}
    return Stage("project", "engine.stages.metric:project", metric.VERSION, given, inputs, n, cost, where)


def choose_k(settings: Settings, num_rows: int) -> int:
    """K, refused if asked for and not below N; the default shrinks to N - 1."""
    asked = "knn" in settings.model_fields_set and "k" in settings.knn.model_fields_set
    if asked and settings.knn.k >= num_rows:
        raise ConfigError(f"knn.k = {settings.knn.k} needs more than {settings.knn.k} rows, the source has {num_rows}")
    return min(settings.knn.k, num_rows - 1)


def _single(
    name: str, function: str, version: int, params: Mapping[str, Any], inputs: Mapping[str, str], cost: Cost,
    where: Mapping[str, Any] | None = None,
) -> Stage:  # fmt: skip
    return Stage(name, function, version, params, inputs, 1, cost, where or {}, granule=1)
