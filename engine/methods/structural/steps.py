"""The structural method's steps: what they read, fit and commit. How they make up the method is in ``structural``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from engine.clustering.label_free import BELIEVED, LEAST_EXPLAINED
from engine.graph.adjacency import EdgeList, undirected_edges
from engine.graph.overlaps import AVERAGED, NUM_PROFILE, neighborhood_averages, vertex_profiles
from engine.learning.held_out import hold_out, split_identities
from engine.learning.tensors import read_arrays
from engine.methods.fitting import FITTED_WEIGHTS, Weighted
from engine.methods.structural import scorer as structural
from engine.methods.structural.settings import TreesSettings
from engine.methods.structural.trees import Trees, fit_trees
from engine.partitions import Clustered
from engine.random_streams import BELIEVED_EDGES, stream
from engine.runs.step import F, Facts, RowStep, Step, Task
from engine.stages import Cost
from engine.steps.edges import EdgeFacts, Scorer, Scores, read_edges
from engine.steps.first import first_identities
from engine.steps.ingest import Rows, Vectors
from engine.steps.knn import Knn, Order, vertex_rows
from engine.steps.labels import Labelled
from engine.steps.metric import LearnedMetric, learned
from engine.storage.context import hold
from engine.units import CHUNK_ROWS

VERSION = 14  # of every step here
WEIGHT_BINS = 64  # of self-tuned weights, from 0 to 1
_APART = np.float32(0.49)  # most probability of an edge between first clusters
SECOND_TENSORS = "second."  # before the names of the second graph's scorer in a model


def listing_cost(knn: Knn, entry_bytes: int) -> Cost:
    """Of a value for everything that rows list."""
    listed = knn.num_rows * knn.k
    return Cost(bytes_per_row=knn.k * 64, fixed_bytes=64 << 20, disk_bytes=listed * entry_bytes, seconds=listed / 5e5)


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighborhoods(RowStep[None]):
    """What surrounds each vertex: ``profiles`` (N, P) float32 and ``averages_5``, ... (N, D) float16.

    Of projected vectors also the ``originals`` (N, D) float16, by vertex.
    """

    kind, version, title = "structural.neighborhoods", VERSION, "neighborhoods"
    features: Vectors[Any]
    knn: Knn
    originals: Rows | None
    order: Order | None

    def cost(self) -> Cost:
        """A gather of the neighbours."""
        n, dim = self.num_rows, self.features.dim
        row_bytes = NUM_PROFILE * 4 + (len(AVERAGED) + (self.originals is not None)) * dim * 2
        return Cost(bytes_per_row=row_bytes + dim * 8 + self.knn.k * 8, disk_bytes=n * row_bytes, seconds=n * dim / 1e7)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Summarise these vertices."""
        neighbors_nK = task.array(self.knn, "neighbors")[start:stop]
        profiles = vertex_profiles(neighbors_nK, task.array(self.knn, "similarities")[start:stop], threads=task.threads)
        task.write_rows("profiles", profiles, np.float32)
        features_ND = task.array(self.features, "features")
        for count in AVERAGED:
            averages = neighborhood_averages(neighbors_nK, features_ND, start, counts=(count,), threads=task.threads)
            task.write_rows(f"averages_{count}", averages[:, 0], np.float16)
        if self.originals is not None:
            rows = None if self.order is None else vertex_rows(task, self.order)[start:stop]
            originals_ND = task.array(self.originals, "features")
            task.write_rows("originals", originals_ND[slice(start, stop) if rows is None else rows], np.float16)


@dataclass(frozen=True, kw_only=True, eq=False)
class NeighborhoodStep(Step[F]):
    """A step over neighbourhoods and the graph that they are of."""

    neighborhoods: Neighborhoods
    knn: Knn

    def graph(self, task: Task) -> structural.Neighborhoods:
        """Both, as the scorer's kernels take them."""
        return structural.Neighborhoods(
            task.array(self.knn, "neighbors"),
            task.array(self.knn, "similarities"),
            task.array(self.neighborhoods, "profiles"),
            tuple(task.array(self.neighborhoods, f"averages_{count}") for count in AVERAGED),
            task.array(self.neighborhoods, "originals") if self.neighborhoods.originals is not None else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class First(Clustered):
    """First clusters to learn from: ``roots`` (N,), and ``opinions`` (2, N) of which they are.

    Its facts tell whether there was ``no_gap``, so that both opinions are one. Then ``near`` (N,) and ``inside``
    (``WEIGHT_BINS``,) say how self-tuned weights are read.
    """


def self_tuned_weights(near_N: np.ndarray, sources: np.ndarray, targets: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Weights (E,) float32 of edges by how near either end's own neighbours are (Zelnik-Manor and Perona, 2004)."""
    return np.exp((cosines - 1) / np.sqrt(near_N[sources] * near_N[targets]))


def weight_bins(weights: np.ndarray) -> np.ndarray:
    """The bin of each self-tuned weight."""
    return np.clip((weights * WEIGHT_BINS).astype(np.int64), 0, WEIGHT_BINS - 1)


class Drawn(NamedTuple):
    """Edges to fit on: which are of one identity, which are held out, and what they count."""

    edges: EdgeList
    same: np.ndarray
    held_out: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Learning(NeighborhoodStep[F], Labelled[F]):
    """A step that learns from the identities of the labels, or from the clusters ``first``; from neither in a run."""

    first: First | None = None
    order: Order | None = None
    trees: TreesSettings | None = None
    seed: int = 0

    def halves(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        """Identities to learn from and the half that each is in; ``None`` where there is nothing to learn from."""
        identities_N = None
        if self.first is not None:
            identities_N = first_identities(task, self.first)
        elif self.labels is not None:
            identities_N = self.identities(self.order, task)
        if identities_N is None or self.trees is None:
            return None
        held_out_N = hold_out(identities_N, self.trees.holdout, self.seed)
        return identities_N, split_identities(identities_N, held_out_N, self.seed)

    def draw(self, task: Task, identities_N: np.ndarray, halves_N: np.ndarray, half: int) -> Drawn:
        """Draw edges to fit on.

        With first clusters an edge counts if both opinions say the same. Where the first, by evidence, holds two rows
        apart that the other joins, it is believed for a share of the edges: else no edge that is hard to tell would be
        among those known to be false.
        """
        assert self.trees is not None
        edges, same, held_out = structural.draw_edges(
            self._blocks(task), identities_N, halves_N, half, self.trees, self.seed
        )
        if self.first is None:
            return Drawn(edges, same, held_out, np.ones(len(same), np.float32))
        opinions = np.asarray(task.npy(self.first, "opinions"))
        joined, other = (roots_N[edges.sources] == roots_N[edges.targets] for roots_N in opinions)
        believed = stream(self.seed, BELIEVED_EDGES, half + 1).random(len(joined)) < BELIEVED
        counts = (joined == other) | (believed & ~joined)
        return Drawn(edges, same, held_out, counts.astype(np.float32))

    def _blocks(self, task: Task) -> Iterator[EdgeList]:
        neighbors_NK, similarities_NK = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        for first in range(0, len(neighbors_NK), CHUNK_ROWS):
            last = min(first + CHUNK_ROWS, len(neighbors_NK))
            yield undirected_edges(neighbors_NK, similarities_NK, first, last, threads=task.threads)

    def fitting_cost(self) -> Cost:
        """Of fitting trees to the edges drawn."""
        assert self.trees is not None
        drawn = self.trees.max_edges * 5 // 4
        return Cost(
            fixed_bytes=self.knn.num_rows * 40 + drawn * (structural.NUM_ALL * 9 + 120) + (64 << 20),
            disk_bytes=4 << 20,
            seconds=drawn * (self.trees.num_trees * self.trees.levels / 8e6 + 1e-5),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ScorerStep(Weighted[F]):
    """A step that applies a scorer. ``tensors`` comes before the names of its tensors in a model."""

    tensors: str = ""

    def read_tensors(self, task: Task) -> dict[str, np.ndarray]:
        """The scorer's tensors; none where nothing was learned."""
        path, prefix = self.weights_path(task), self.tensors

        def load() -> dict[str, np.ndarray]:
            tensors = read_arrays(path)
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        return hold(("tensors", path, prefix, task.call.digest), load)


@dataclass(frozen=True, kw_only=True, eq=False)
class FitPrior(Learning[Facts]):
    """The first score, fitted on either half of the identities: ``weights.safetensors``."""

    kind, version, title = "structural.fit_prior", VERSION, "fit_prior"

    def cost(self) -> Cost:
        """Two fits."""
        return self.fitting_cost()

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Fit. First clusters may be too few, or too far apart, to learn from: then there are no weights."""
        config = self.trees
        tensors: dict[str, np.ndarray] = {}
        sizes: list[int] = []
        known = self.halves(task)
        for half in (0, 1) if known else ():
            assert known is not None
            assert config is not None
            identities_N, halves_N = known
            drawn = self.draw(task, identities_N, halves_N, half)
            fitted = ~drawn.held_out & (drawn.weights > 0)
            if self.first is not None and not 0 < drawn.same[fitted].sum() < fitted.sum():
                tensors, sizes = {}, []
                break
            inputs = structural.edge_inputs(self.graph(task), drawn.edges, threads=task.threads)
            trees = fit_trees(
                inputs,
                drawn.same,
                drawn.weights,
                drawn.held_out,
                config,
                seed=self.seed,
                threads=task.threads,
                progress=_progress(task, half / 2, 2),
            )
            tensors |= structural.trees_to_tensors(f"prior_{half}", trees)
            sizes.append(len(trees.values))
        task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save(tensors)))
        return {"trees": sizes}


def _progress(task: Task, before: float, fits: int) -> Callable[[int, int], None]:
    """Report the trees of one of so many fits."""
    return lambda done, of: task.report(before + done / of / fits, f"tree {done:,} of {of:,}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior(Learning[None], ScorerStep[None], RowStep[None]):
    """``priors`` (N, K) uint16; while training, an edge's prior is of trees that never saw it."""

    kind, version, title = "structural.prior", VERSION, "prior"

    def cost(self) -> Cost:
        """Two bytes of everything listed."""
        return listing_cost(self.knn, 2)

    def prior_trees(self, task: Task) -> tuple[Trees, ...]:
        """The trees of the first score."""
        return hold(("priors", task.call.digest), lambda: structural.priors_from_tensors(self.read_tensors(task)))

    def run(self, task: Task, start: int, stop: int) -> None:
        """Score what these rows list."""
        known = hold(("halves", task.call.digest), lambda: self.halves(task))
        halves_N = None if known is None else known[1]
        trees = self.prior_trees(task)
        if trees:
            priors = structural.prior_rows(trees, self.graph(task), start, stop, halves_N, threads=task.threads)
        else:
            priors = np.zeros((stop - start, task.array(self.knn, "neighbors").shape[1]), np.uint16)
        task.write_rows("priors", priors, np.uint16)


@dataclass(frozen=True, kw_only=True, eq=False)
class WithSecond(Step[F]):
    """A step that reads the scores of a second graph, if there is one; ``order`` and ``second_order`` number both."""

    second: Listed | None = None
    second_knn: Knn | None = None
    second_order: Order | None = None
    order: Order | None = None

    def second_scores(self, task: Task) -> structural.SecondScores:
        """The second graph's scores, by the first one's vertices."""
        assert self.second is not None
        assert self.second_knn is not None
        vertices_N = hold(("second vertices", task.call.digest), lambda: self._second_vertices(task))
        listed = task.array(self.second, "scores")
        return structural.SecondScores(task.array(self.second_knn, "neighbors"), listed, vertices_N)

    def _second_vertices(self, task: Task) -> np.ndarray | None:
        if self.order is None or self.second_order is None:
            return None
        rows_N, second_rows_N = vertex_rows(task, self.order), vertex_rows(task, self.second_order)
        vertices_N = np.empty(len(rows_N), np.int32)
        vertices_N[second_rows_N] = np.arange(len(rows_N), dtype=np.int32)
        return vertices_N[rows_N]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit(Learning[Facts], WithSecond[Facts]):
    """The final score, fitted over the priors: ``weights.safetensors`` of the whole scorer.

    What was learned of first clusters is dropped if it says little of those held out: real ones leave 5 to 27 % of the
    entropy unexplained, a giant and copies, which have nothing in common, more than all of it. With a second graph the
    weights are of both scorers, unless its was dropped.
    """

    kind, version, title = "structural.fit", VERSION, "fit"
    fit_prior: FitPrior
    prior: Prior
    metric: LearnedMetric | None = None
    second_fit: Step[Facts] | None = None

    def cost(self) -> Cost:
        """A fit."""
        return self.fitting_cost()

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Fit."""
        config = self.trees
        priors = structural.priors_from_tensors(read_arrays(task.input(self.fit_prior) / FITTED_WEIGHTS))
        known = self.halves(task)
        if known is None or not priors:
            return self._learned_nothing(task)
        assert config is not None
        identities_N, halves_N = known
        drawn = self.draw(task, identities_N, halves_N, -1)
        edges, same, held_out = drawn.edges, drawn.same, drawn.held_out
        priors_NK = task.array(self.prior, "priors")
        inputs = structural.edge_inputs(self.graph(task), edges, priors_NK, threads=task.threads)
        final = fit_trees(
            inputs,
            same,
            drawn.weights,
            held_out,
            config,
            seed=self.seed,
            threads=task.threads,
            progress=_progress(task, 0, 1),
        )
        counted = held_out & (drawn.weights > 0)
        logits = final.logits(inputs[counted], threads=task.threads)
        if self.first is not None and structural.explained_share(logits, same[counted]) < LEAST_EXPLAINED:
            return self._learned_nothing(task)
        tensors, facts = learned(task, self.metric)
        slopes, offset = structural.calibrate(same[counted], logits)
        second = None
        all_logits = final.logits(inputs[held_out], threads=task.threads)
        if self.second_fit is not None and (other := read_arrays(task.input(self.second_fit) / FITTED_WEIGHTS)):
            tensors |= {f"{SECOND_TENSORS}{name}": tensor for name, tensor in other.items()}
            second = self.second_scores(task).log_odds(edges.sources[held_out], edges.targets[held_out], all_logits)
        if self.first is not None:
            if second is not None:  # first clusters of the one graph cannot say how far to believe the other's
                slopes, offset = [slopes[0] / 2, 0.5], offset / 2
        elif second is not None:
            tensors["alone"] = np.array([*slopes, offset, 0.0])
            slopes, offset = structural.calibrate(same[counted], logits, second)
        if sum(slopes[1:]) > 0:
            facts["second_graph"] = True
        else:  # a run would make that graph in vain
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(SECOND_TENSORS)}
            tensors.pop("alone", None)
        facts["slopes"] = slopes
        scorer = structural.StructuralScorer(priors, final, slopes[0], offset, sum(slopes[1:]))
        task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save(structural.to_tensors(scorer) | tensors)))
        return {"trees": len(final.values), "edges": len(same), "same_share": float(same.mean()), **facts}

    def _learned_nothing(self, task: Task) -> Facts:
        task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save({})))
        return {"trees": 0, "edges": 0}


@dataclass(frozen=True, kw_only=True, eq=False)
class StructuralScores(Scores, NeighborhoodStep[EdgeFacts], ScorerStep[EdgeFacts], WithSecond[EdgeFacts]):
    """Every edge with the probability that both ends are one identity.

    Where the first clusters gave nothing to learn from, ``otherwise`` gives the scores, unless there was no gap either:
    then an edge's score is the mean of whether its ends are in one first cluster and how many edges of its self-tuned
    weight have both ends in one. So even odds are where the clusters have them, and a precision bias acts.
    """

    kind, version = "structural.score", VERSION
    prior: Prior
    first: First | None = None
    otherwise: Scores | None = None

    def cost(self) -> Cost:
        """A block of edges."""
        return listing_cost(self.knn, 16)

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        tensors = self.read_tensors(task)
        if not tensors:
            return self.write(task, start, stop, self._first_scores(task, start, stop))
        second = None
        if any(name.startswith(SECOND_TENSORS) for name in tensors):
            if self.second is not None:
                second = self.second_scores(task)
            else:  # too many rows, or not wanted
                tensors = {**tensors, "calibration": structural.check_alone(tensors)}
        scorer = hold(("scorer", task.call.digest), lambda: structural.from_tensors(tensors))
        graph, priors_NK = self.graph(task), task.array(self.prior, "priors")

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            edges = EdgeList(sources, targets, similarities)
            return structural.score_edges(scorer, graph, priors_NK, edges, second, threads=task.threads)

        return self.write(task, start, stop, give)

    def _first_scores(self, task: Task, start: int, stop: int) -> Scorer:
        first, otherwise = self.first, self.otherwise
        assert first is not None
        assert otherwise is not None
        if task.facts(first)["no_gap"]:
            names = ("roots", "near", "inside")
            roots_N, near_N, inside_B = hold(
                ("modules", task.call.digest), lambda: tuple(np.array(task.npy(first, name)) for name in names)
            )

            def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
                shares = inside_B[weight_bins(self_tuned_weights(near_N, sources, targets, similarities))]
                joined = roots_N[sources] == roots_N[targets]
                return np.where(joined, (1 + shares) / 2, np.minimum(shares / 2, _APART)).astype(np.float32)

            return give
        chunks = read_edges(task.input(otherwise), start, stop, ("score",))
        return lambda a, b, _: next(chunks)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Listed(NeighborhoodStep[None], ScorerStep[None], RowStep[None]):
    """``scores`` (N, K) uint16 of what rows of a second graph list; zeros where nothing was learned."""

    kind, version, title = "structural.listed", VERSION, "listed"
    prior: Prior

    def cost(self) -> Cost:
        """Two bytes of everything listed."""
        return listing_cost(self.knn, 2)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Score what these rows list."""
        tensors = self.read_tensors(task)
        if not tensors:
            task.write_rows("scores", np.zeros((stop - start, task.array(self.knn, "neighbors").shape[1])), np.uint16)
            return
        scorer = hold(("scorer", task.call.digest), lambda: structural.from_tensors(tensors))
        priors_NK = task.array(self.prior, "priors")
        scores = structural.listed_scores(scorer, self.graph(task), priors_NK, start, stop, threads=task.threads)
        task.write_rows("scores", scores, np.uint16)
