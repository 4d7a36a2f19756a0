"""The structural method's tasks: what its stages read, fit and commit. Its stages are in ``structural``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save

from engine.clustering.operating_point import cluster_by_codelength
from engine.config import TreesConfig
from engine.graph.adjacency import EdgeList, undirected_edges
from engine.graph.overlaps import AVERAGED, neighborhood_averages, vertex_profiles
from engine.learning import structural
from engine.learning.doubts import estimate_doubts, limit_doubts
from engine.learning.tensors import read_arrays
from engine.learning.training import hold_out
from engine.learning.trees import Trees
from engine.methods.fitting import FITTED_WEIGHTS, weights_path
from engine.plan import CHUNK_ROWS
from engine.stages.edges import write_edges
from engine.stages.first import first_identities
from engine.stages.metric import learned, vertex_identities
from engine.storage.context import TaskContext, hold, read_npy, stage_facts

LEAST_EXPLAINED = 0.25  # of the entropy of clusters held out, for what was learned of the others to be used
MOSTLY_ALONE = 0.9  # of the rows, for first clusters that teach nothing to stand as they are
SECOND_TENSORS = "second."  # before the names of the second graph's scorer in a model


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
    entropy unexplained, a giant and copies, which have nothing in common, more than all of it. With a second graph the
    weights are of both scorers, unless its was dropped.
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
    explained = structural.explained_share(logits, same[held_out])
    if "first" in task.call.inputs and explained < LEAST_EXPLAINED:
        return _learned_nothing(task)
    tensors, facts = learned(task)
    second = None
    if "second_fit" in task.call.inputs and (other := read_arrays(task.input("second_fit") / FITTED_WEIGHTS)):
        tensors |= {f"{SECOND_TENSORS}{name}": tensor for name, tensor in other.items()}
        second = _second_scores(task).log_odds(edges.sources[held_out], edges.targets[held_out], logits)
    slopes, offset = structural.calibrate(same[held_out], logits)
    if "first" in task.call.inputs:
        facts["doubts"] = config.doubts
        if config.doubts is None:
            inside = slopes[0] * logits[same[held_out]] + offset
            doubts = estimate_doubts(read_npy(task.input("first"), "roots"))
            facts["doubts"] = limit_doubts(doubts, explained, inside)
        offset -= facts["doubts"] * float(np.log(2))
        if second is not None:  # which has its own doubts; clusters of the first graph cannot say which is better
            slopes, offset = [slopes[0] / 2, 0.5], offset / 2
    elif second is not None:
        tensors["alone"] = np.array([*slopes, offset, 0.0])
        slopes, offset = structural.calibrate(same[held_out], logits, second)
    if sum(slopes[1:]) > 0:
        facts["second_graph"] = True
    else:  # a run would make that graph in vain
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(SECOND_TENSORS)}
        tensors.pop("alone", None)
    facts["slopes"] = slopes
    scorer = structural.StructuralScorer(priors, final, slopes[0], offset, sum(slopes[1:]))
    task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save(structural.to_tensors(scorer) | tensors)))
    return {"trees": len(final.values), "edges": len(same), "same_share": float(same.mean()), **facts}


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with the probability that both ends are one identity.

    Where the first clusters gave nothing to learn from, those of least codelength are certain. Where few rows have a
    neighbour nearer than chance, an edge that is no nearer is none: how such edges look was not learned.
    """
    tensors = _tensors(task, "fit")
    if not tensors:
        roots_N = hold(("roots", task.call.digest), lambda: np.array(read_npy(task.input("fit"), "roots")))
        return write_edges(task, start, stop, lambda a, b, _: (roots_N[a] == roots_N[b]).astype(np.float32))
    second = None
    if any(name.startswith(SECOND_TENSORS) for name in tensors):
        if "second" in task.call.inputs:
            second = _second_scores(task)
        else:  # too many rows, or not wanted
            tensors = {**tensors, "calibration": structural.check_alone(tensors)}
    scorer = hold(("scorer", task.call.digest), lambda: structural.from_tensors(tensors))
    graph, priors_NK = _graph(task), task.array("prior", "priors")
    chance = stage_facts(task.input("first"))[0].get("chance", -1.0) if "first" in task.call.inputs else -1.0

    def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        edges = EdgeList(sources, targets, similarities)
        scores = structural.score_edges(scorer, graph, priors_NK, edges, second, threads=task.threads)
        return np.where(similarities < np.float32(chance), np.float32(0), scores)

    return write_edges(task, start, stop, give)


def listed(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``scores`` (N, K) uint16 of what rows of a second graph list; zeros where nothing was learned."""
    tensors = _tensors(task, "fit")
    if not tensors:
        task.write_rows("scores", np.zeros((stop - start, task.array("knn", "neighbors").shape[1])), np.uint16)
        return {}
    scorer = hold(("scorer", task.call.digest), lambda: structural.from_tensors(tensors))
    priors_NK = task.array("prior", "priors")
    scores = structural.listed_scores(scorer, _graph(task), priors_NK, start, stop, threads=task.threads)
    task.write_rows("scores", scores, np.uint16)
    return {}


def _second_scores(task: TaskContext) -> structural.SecondScores:
    vertices_N = hold(("second vertices", task.call.digest), lambda: _second_vertices(task))
    return structural.SecondScores(task.array("second_knn", "neighbors"), task.array("second", "scores"), vertices_N)


def _second_vertices(task: TaskContext) -> np.ndarray | None:
    if "order" not in task.call.inputs:
        return None
    rows_N, second_rows_N = (read_npy(task.input(name), "row_of_vertex") for name in ("order", "second_order"))
    vertices_N = np.empty(len(rows_N), np.int32)
    vertices_N[second_rows_N] = np.arange(len(rows_N), dtype=np.int32)
    return vertices_N[rows_N]


def _learned_nothing(task: TaskContext) -> dict[str, Any]:
    """What lies apart from few first clusters is more likely of one than of none, unless nearly all is, or noise."""
    roots_N = np.asarray(read_npy(task.input("first"), "roots"))
    alone = (np.bincount(roots_N, minlength=len(roots_N)) == 1).sum()
    stand = bool(alone >= MOSTLY_ALONE * len(roots_N)) or "chance" in stage_facts(task.input("first"))[0]
    if not stand:
        graph = task.array("knn", "neighbors"), task.array("knn", "similarities")
        roots_N = cluster_by_codelength(*graph, threads=task.threads)
    task.write_npy("roots", roots_N)
    task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save({})))
    return {"trees": 0, "edges": 0, "first_stand": stand}


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
        identities_N = first_identities(task)
    elif "labels" in task.where:
        identities_N = vertex_identities(task)
    if identities_N is None:
        return None
    seed = task.params["seed"]
    held_out_N = hold_out(identities_N, task.params["trees"]["holdout"], seed)
    return identities_N, structural.split_identities(identities_N, held_out_N, seed)


def _blocks(task: TaskContext) -> Iterator[EdgeList]:
    neighbors_NK, similarities_NK = task.array("knn", "neighbors"), task.array("knn", "similarities")
    for first in range(0, len(neighbors_NK), CHUNK_ROWS):
        last = min(first + CHUNK_ROWS, len(neighbors_NK))
        yield undirected_edges(neighbors_NK, similarities_NK, first, last, threads=task.threads)


def _prior_trees(task: TaskContext) -> tuple[Trees, ...]:
    tensors = _tensors(task, "fit_prior")
    return hold(("priors", task.call.digest), lambda: structural.priors_from_tensors(tensors))


def _tensors(task: TaskContext, fitted: str) -> dict[str, np.ndarray]:
    """The scorer's tensors: of a given model, where the second graph's have a prefix, else of the stage ``fitted``."""
    path, prefix = weights_path(task, fitted), task.params.get("tensors", "")

    def load() -> dict[str, np.ndarray]:
        tensors = read_arrays(path)
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    return hold(("tensors", path, prefix, task.call.digest), load)
