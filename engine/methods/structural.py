"""Structural scorer: boosted trees over what the KNN graph alone says about an edge, whatever the vectors are of.

``neighborhoods`` summarises each vertex, ``prior`` gives a first score to all that each vertex lists, ``score`` gives
every edge its final one from its own inputs and the priors around it. Training fits the first score on either half of
the identities (``fit_prior``), so that the second (``fit``) learns from priors of edges not learned by heart.
With labels a metric is learned first and the graph is built in it (``engine.stages.metric``). A model without one has
no dimension: trained on some vectors it scores any others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from engine.config import Settings, TreesConfig
from engine.graph.adjacency import EdgeList, undirected_edges
from engine.graph.overlaps import AVERAGED, NUM_PROFILE, neighborhood_averages, vertex_profiles
from engine.learning import structural
from engine.learning.doubts import estimate_doubts
from engine.learning.training import hold_out
from engine.learning.trees import Trees
from engine.methods.base import GraphShape, Method, Model, select_stage, which_edges
from engine.methods.fitting import FITTED_WEIGHTS, weights_path
from engine.plan import CHUNK_ROWS, Cost, Stage
from engine.stages.edges import write_edges
from engine.stages.metric import learned, vertex_identities
from engine.storage.context import TaskContext, hold, read_npy

VERSION = 5
LEAST_CLUSTERS = 50  # of two rows and more, for first clusters to be learned from
LEAST_EXPLAINED = 0.25  # of the entropy of clusters held out, for what was learned of the others to be used
_HERE = "engine.methods.structural"


class Structural(Method):
    """The structural scorer's stages."""

    name = "structural"
    learned = True
    needs_model = True
    metric_spaces = 2

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``neighborhoods``, ``prior`` and ``score``, with the trees of ``model``."""
        assert model is not None
        params = {"model": model.digest, "projected": graph.originals is not None}
        where = {"weights": model.weights}
        prior = Stage(
            "prior", f"{_HERE}:prior", VERSION, params, _inputs(graph), graph.num_rows, _cost(graph, 2), where
        )
        return [_neighborhoods(graph), prior, _score(graph, params | which_edges(settings, model), {}, where)]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``neighborhoods``, ``fit_prior``, ``prior``, ``fit``, ``score`` of the whole graph, and ``select``."""
        where = {"labels": labels["labels"], "column": labels["column"]}
        select = select_stage(graph, settings, labels, settings.trees.holdout)
        return [
            *fitting_stages(graph, settings, {"labels": labels["digest"]}, {}, where, which_edges(settings)),
            select,
        ]


def fitting_stages(
    graph: GraphShape, settings: Settings, params: Mapping[str, Any], known: Mapping[str, str],
    where: Mapping[str, Any], edges: Mapping[str, Any],
) -> list[Stage]:  # fmt: skip
    """``neighborhoods``, ``fit_prior``, ``prior``, ``fit``, and ``score`` of the whole graph.

    Identities are those of the labels that ``where`` names, or of the stage ``first`` among the inputs ``known``.
    """
    projected = {"projected": graph.originals is not None}
    given = dict(params) | projected | {"trees": settings.trees.model_dump(mode="json"), "seed": settings.seed}
    inputs = _inputs(graph) | graph.ordered | dict(known)
    fitted = {"fit_prior": "fit_prior"}
    final = {"prior": "prior", **({"metric": graph.metric} if graph.metric else {})}
    drawn = settings.trees.max_edges * 5 // 4
    cost = Cost(
        fixed_bytes=graph.num_rows * 40 + drawn * (structural.NUM_ALL * 9 + 120) + (64 << 20),
        disk_bytes=4 << 20, seconds=drawn * (settings.trees.num_trees * settings.trees.levels / 8e6 + 1e-5),
    )  # fmt: skip
    return [
        _neighborhoods(graph),
        Stage("fit_prior", f"{_HERE}:fit_prior", VERSION, given, inputs, 1, cost, where, granule=1),
        Stage("prior", f"{_HERE}:prior", VERSION, given, inputs | fitted, graph.num_rows, _cost(graph, 2), where),
        Stage("fit", f"{_HERE}:fit", VERSION, given, inputs | fitted | final, 1, cost, where, granule=1),
        _score(graph, dict(edges) | projected, {"fit": "fit", **known}, {}),
    ]


def summarise(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``profiles`` (N, P) float32, ``averages_5``, ... (N, D) float16 and, if projected, ``originals`` (N, D)."""
    neighbors_nK = task.array("knn", "neighbors")[start:stop]
    profiles = vertex_profiles(neighbors_nK, task.array("knn", "similarities")[start:stop], threads=task.threads)
    task.write_rows("profiles", profiles, np.float32)
    features_ND = task.array("features", "features")
    for count in AVERAGED:
        averages = neighborhood_averages(neighbors_nK, features_ND, start, counts=(count,), threads=task.threads)
        task.write_rows(f"averages_{count}", averages[:, 0], np.float16)
    if "originals" in task.call.inputs:
        rows = read_npy(task.input("order"), "row_of_vertex")[start:stop] if "order" in task.call.inputs else None
        originals_ND = task.array("originals", "features")
        task.write_rows("originals", originals_ND[slice(start, stop) if rows is None else rows], np.float16)
    return {}


def fit_prior(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Fit the first score on either half of the identities; write ``weights.safetensors``.

    First clusters may be too few, or too far apart, to learn from: then there are no weights.
    """
    config, seed = TreesConfig(**task.params["trees"]), task.params["seed"]
    tensors: dict[str, np.ndarray] = {}
    sizes: list[int] = []
    known = _halves(task)
    for half in (0, 1) if known else ():
        assert known is not None
        identities_N, halves_N = known
        edges, same, held_out = structural.draw_edges(_blocks(task), identities_N, halves_N, half, config, seed)
        if "first" in task.call.inputs and not 0 < same[~held_out].sum() < (~held_out).sum():
            tensors, sizes = {}, []
            break
        inputs = structural.edge_inputs(_graph(task), edges, threads=task.threads)
        trees = structural.fit_scorer(
            inputs, same, held_out, config, seed=seed, threads=task.threads,
            progress=lambda done, all_, half=half: task.report((half + done / all_) / 2, f"tree {done:,} of {all_:,}"),
        )  # fmt: skip
        tensors |= structural.trees_to_tensors(f"prior_{half}", trees)
        sizes.append(len(trees.values))
    task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save(tensors)))
    return {"trees": sizes}


def prior(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``priors`` (N, K) uint16; while training, an edge's prior is of trees that never saw it."""
    known = hold(("halves", task.call.digest), lambda: _halves(task))
    halves_N = None if known is None else known[1]
    trees = _prior_trees(task)
    if trees:
        priors = structural.prior_rows(trees, _graph(task), start, stop, halves_N, threads=task.threads)
    else:
        priors = np.zeros((stop - start, task.array("knn", "neighbors").shape[1]), np.uint16)
    task.write_rows("priors", priors, np.uint16)
    return {}


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Fit the final score over the priors; write ``weights.safetensors`` of the whole scorer.

    What was learned of first clusters is dropped if it says little of those held out: real ones leave 5 to 27 % of the
    entropy unexplained, a giant and copies, which have nothing in common, more than all of it.
    """
    config, seed = TreesConfig(**task.params["trees"]), task.params["seed"]
    known, priors = _halves(task), _prior_trees(task)
    if known is None or not priors:
        return _learned_nothing(task)
    identities_N, halves_N = known
    edges, same, held_out = structural.draw_edges(_blocks(task), identities_N, halves_N, -1, config, seed)
    inputs = structural.edge_inputs(_graph(task), edges, task.array("prior", "priors"), threads=task.threads)
    final = structural.fit_scorer(
        inputs, same, held_out, config, seed=seed, threads=task.threads,
        progress=lambda done, of: task.report(done / of, f"tree {done:,} of {of:,}"),
    )  # fmt: skip
    logits = final.logits(inputs[held_out], threads=task.threads)
    if "first" in task.call.inputs and structural.explained_share(logits, same[held_out]) < LEAST_EXPLAINED:
        return _learned_nothing(task)
    slope, offset = structural.calibrate(logits, same[held_out])
    tensors, facts = learned(task)
    if "first" in task.call.inputs:
        doubts = config.doubts
        facts["doubts"] = estimate_doubts(read_npy(task.input("first"), "roots")) if doubts is None else doubts
        offset -= facts["doubts"] * float(np.log(2))
    scorer = structural.StructuralScorer(priors, final, slope, offset)
    task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save(structural.to_tensors(scorer) | tensors)))
    return {"trees": len(final.values), "edges": len(same), "same_share": float(same.mean()), **facts}


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with the probability that both ends are one identity.

    Where the first clusters gave nothing to learn from, they are certain.
    """
    weights = weights_path(task)
    tensors = hold(("weights", weights, task.call.digest), lambda: load_file(weights))
    if not tensors:
        roots_N = hold(("first", task.call.digest), lambda: np.array(read_npy(task.input("first"), "roots")))
        return write_edges(task, start, stop, lambda a, b, _: (roots_N[a] == roots_N[b]).astype(np.float32))
    scorer = hold(("scorer", weights, task.call.digest), lambda: structural.from_tensors(tensors))
    graph, priors_NK = _graph(task), task.array("prior", "priors")

    def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        edges = EdgeList(sources, targets, similarities)
        return structural.score_edges(scorer, graph, priors_NK, edges, threads=task.threads)

    return write_edges(task, start, stop, give)


def _learned_nothing(task: TaskContext) -> dict[str, Any]:
    task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save({})))
    return {"trees": 0, "edges": 0}


def _neighborhoods(graph: GraphShape) -> Stage:
    n, k, dim = graph.num_rows, graph.k, graph.dim
    row_bytes = NUM_PROFILE * 4 + (len(AVERAGED) + (graph.originals is not None)) * dim * 2
    cost = Cost(bytes_per_row=row_bytes + dim * 8 + k * 8, disk_bytes=n * row_bytes, seconds=n * dim / 1e7)
    inputs = {"features": graph.features, "knn": "knn"}
    if graph.originals:
        inputs |= {"originals": graph.originals} | graph.ordered
    return Stage("neighborhoods", f"{_HERE}:summarise", VERSION, {}, inputs, n, cost)


def _inputs(graph: GraphShape) -> dict[str, str]:
    return {"neighborhoods": "neighborhoods", "knn": "knn"}


def _score(graph: GraphShape, params: Mapping[str, Any], fitted: Mapping[str, str], where: Mapping[str, Any]) -> Stage:
    inputs = _inputs(graph) | {"prior": "prior", **fitted}
    return Stage("score", f"{_HERE}:score", VERSION, dict(params), inputs, graph.num_rows, _cost(graph, 16), where)


def _cost(graph: GraphShape, entry_bytes: int) -> Cost:
    return Cost(
        bytes_per_row=graph.k * 64, fixed_bytes=64 << 20, disk_bytes=graph.num_rows * graph.k * entry_bytes,
        seconds=graph.num_rows * graph.k / 5e5,
    )  # fmt: skip


def _graph(task: TaskContext) -> structural.Neighborhoods:
    return structural.Neighborhoods(
        task.array("knn", "neighbors"), task.array("knn", "similarities"), task.array("neighborhoods", "profiles"),
        tuple(task.array("neighborhoods", f"averages_{count}") for count in AVERAGED),
        task.array("neighborhoods", "originals") if task.params["projected"] else None,
    )  # fmt: skip


def _halves(task: TaskContext) -> tuple[np.ndarray, np.ndarray] | None:
    """Identities to learn from and the half that each is in; ``None`` if a model is given or nothing can be learned."""
    identities_N = None
    if "first" in task.call.inputs:
        identities_N = _first_identities(task)
    elif "labels" in task.where:
        identities_N = vertex_identities(task)
    if identities_N is None:
        return None
    seed = task.params["seed"]
    held_out_N = hold_out(identities_N, task.params["trees"]["holdout"], seed)
    return identities_N, structural.split_identities(identities_N, held_out_N, seed)


def _first_identities(task: TaskContext) -> np.ndarray | None:
    """The first clusters as identities, -1 for rows alone in theirs; ``None`` if they are too few to learn from."""
    roots_N = np.asarray(read_npy(task.input("first"), "roots"))
    sizes_N = np.bincount(roots_N, minlength=len(roots_N))
    identities_N = np.where(sizes_N[roots_N] > 1, roots_N, -1).astype(np.int64)
    return identities_N if np.count_nonzero(sizes_N > 1) >= LEAST_CLUSTERS else None


def _blocks(task: TaskContext) -> Iterator[EdgeList]:
    neighbors_NK, similarities_NK = task.array("knn", "neighbors"), task.array("knn", "similarities")
    for first in range(0, len(neighbors_NK), CHUNK_ROWS):
        last = min(first + CHUNK_ROWS, len(neighbors_NK))
        yield undirected_edges(neighbors_NK, similarities_NK, first, last, threads=task.threads)


def _prior_trees(task: TaskContext) -> tuple[Trees, ...]:
    weights = weights_path(task, "fit_prior")
    return hold(("priors", weights, task.call.digest), lambda: structural.priors_from_tensors(load_file(weights)))
