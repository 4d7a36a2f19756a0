"""GCN-V+E (Yang et al., "Learning to Cluster Faces via Confidence and Connectivity Estimation", CVPR 2020).

What it fits: GCN-V's confidence (``engine.methods.gcn_v``), then graph convolutions over the candidates of a vertex,
its neighbours of higher confidence, that say which of them are of its identity (section 3.3). How it scores: the
vertices of lowest confidence link to their nearest candidate, as in GCN-V; the others to the likeliest, or to the
nearest of at least some probability; a link's score is the cosine of its ends, or of their embeddings. How it
partitions: links of less than a least cosine are dropped, the others joined.

Deviations: those of GCN-V; candidates are looked for among the K neighbours that the vectors list (published: a second
KNN graph of K = 160 over GCN-V's embeddings), and told apart by the vectors: embeddings of identities not trained on
are worse (``gcn_e.inputs=embedded`` is the published way); convolutions average over candidates that list each other,
unweighted; the network trains on all vertices (published: without the 70 % of lowest confidence): confidences of those
learned by heart leave next to no stranger among the candidates of the rest; the pass, the least cosine and the least
probability are chosen on held-out identities (published: the likeliest candidate, here probability 0, and cosine 0.80).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from engine.config import GcnEConfig, GcnVConfig, Settings, TrainConfig
from engine.errors import DataError
from engine.graph.pivots import PivotBatch, pivot_batch
from engine.learning import selection
from engine.learning.confidence import build_network as build_confidence
from engine.learning.pivots import PivotData, PivotNetwork, build_network, count_products, score_pivots, train_pivots
from engine.learning.tensors import read_tensors
from engine.learning.training import hold_out
from engine.methods.base import GraphShape, Method, Model, aggregate_stage, which_edges
from engine.methods.fitting import FITTED_WEIGHTS, checkpoint, read_network, report_steps, write_weights
from engine.methods.gcn_v import (
    PASSES,
    confidence_stage,
    find_links,
    fitting_stage,
    link_columns,
    listed_in_passes,
    score_stage,
)
from engine.plan import Cost, Stage
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext, hold
from engine.tiles import map_tiles, tile_bounds

VERSION = 5
LINKS_VERSION = 3
TILE_PIVOTS = 32
PREFIX = "confidence."  # of the names of GCN-V's weights in the model's file
PROBABILITIES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.0)  # the first leave GCN-V's links nearly as they are
NO_WORSE = 0.01  # in F: the network is surer of identities learned by heart, so its word counts less than it seems
_HERE = "engine.methods.gcn_e"


class GcnE(Method):
    """GCN-V+E's stages."""

    name = "gcn_e"
    needs_model = True
    training_sections = ("gcn_v", "gcn_e", "sampling", "train")
    partitions = ("components",)
    read_facts = ("network", "min_probability", "pass")

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """GCN-V's network, and that over a vertex's candidates."""
        network = model.facts["network"]
        confidence, config = GcnVConfig(**network["gcn_v"]), GcnEConfig(**network["gcn_e"])
        dim = confidence.hidden if config.inputs == "embedded" else model.dim
        return {
            PREFIX: partial(build_confidence, model.dim, confidence, seed=0),
            "": partial(build_network, dim, config.widths, config.hidden, seed=0),
        }

    def untrained(self, settings: Settings) -> dict[str, Any]:
        """What a model's weights belong to, and the least probability of a link."""
        network = {"gcn_v": settings.gcn_v.model_dump(mode="json"), "gcn_e": settings.gcn_e.model_dump(mode="json")}
        return {"network": network, "min_probability": 0.0, "pass": PASSES[0]}

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``aggregate``, ``confidence``, ``links`` and ``score``, with the weights of ``model``."""
        assert model is not None
        where = {"weights": model.weights}
        given = {"model": model.digest, "prefix": PREFIX}
        network, least = model.facts["network"], [model.facts["min_probability"]]
        return [
            aggregate_stage(graph),
            confidence_stage(graph, GcnVConfig(**network["gcn_v"]), given | {"network": network["gcn_v"]}, {}, where),
            _links(graph, GcnEConfig(**network["gcn_e"]), least, {"model": model.digest}, {}, where),
            score_stage(graph, {"pass": PASSES.index(model.facts["pass"])} | which_edges(settings, model)),
        ]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``aggregate``, ``fit_confidence``, ``confidence``, ``fit``, ``links`` of the whole graph, and ``select``."""
        n, k, config = graph.num_rows, graph.k, settings.gcn_e
        where = {"labels": labels["labels"], "column": labels["column"]}
        network = self.untrained(settings)["network"]
        params = {
            "network": network, "train": settings.train.model_dump(mode="json"),
            "identity_balance": settings.sampling.identity_balance, "seed": settings.seed, "labels": labels["digest"],
        }  # fmt: skip
        inputs = {"confidence": "confidence", "fit_confidence": "fit_confidence", "knn": "knn"} | graph.ordered
        inputs |= {"features": graph.features}
        work = settings.train.max_steps * config.pivots_per_step * _products(k, settings.gcn_v.hidden, config)
        cost = Cost(
            fixed_bytes=n * (64 + k * 8) + config.pivots_per_step * k * sum(config.widths) * 64, disk_bytes=32 << 20,
            seconds=work * 6 / 4e10, kind="floats",
        )  # fmt: skip
        choose = {"seed": settings.seed, "labels": labels["digest"], "holdout": settings.train.holdout}
        return [
            aggregate_stage(graph),
            fitting_stage(graph, settings, labels, "fit_confidence"),
            confidence_stage(graph, settings.gcn_v, {"network": network["gcn_v"]}, {"fit": "fit_confidence"}, {}),
            Stage("fit", f"{_HERE}:fit", VERSION, params, inputs, 1, cost, where, granule=1),
            _links(graph, config, PROBABILITIES, {}, {"fit": "fit"}, {}),
            Stage("select", f"{_HERE}:select", LINKS_VERSION, choose, {"links": "links"} | graph.ordered, 1,
                  Cost(fixed_bytes=n * 200, disk_bytes=1 << 16, seconds=n * k / 2e6), where, granule=1),
        ]  # fmt: skip


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train from the last checkpoint; write ``weights.safetensors``, GCN-V's among them."""
    network = task.params["network"]
    config = GcnEConfig(**network["gcn_e"])
    candidates, identities_N = _Candidates(task, config), vertex_identities(task)
    held_out_N = hold_out(identities_N, task.params["train"]["holdout"], task.params["seed"])
    usable_N, held = candidates.several_N.copy(), np.flatnonzero(held_out_N)
    usable_N[held] = candidates.undecided(held)  # among themselves: rows learned by heart are surer
    for name, part_N in (("held-out", held_out_N), ("other", ~held_out_N)):
        if not (usable_N & part_N & (identities_N >= 0)).any():
            raise DataError(
                f"training gcn_e: of {np.count_nonzero(part_N):,} rows of {name} identities, none that counts lists "
                f"two rows of higher confidence to choose from (of held-out ones the {1 - config.skip_share:.0%} of "
                f"highest confidence count); expected more rows, or a lower gcn_e.skip_share or knn.k "
                f"(here {candidates.neighbors_NK.shape[1]})"
            )
    data = PivotData(
        features_ND=candidates.inputs_NI, neighbors_NK=candidates.neighbors_NK, identities_N=identities_N,
        usable_N=usable_N, batch_of=candidates.batch,
    )  # fmt: skip
    with checkpoint(task) as kept:
        trained, history = train_pivots(
            data, widths=config.widths, hidden=config.hidden, config=TrainConfig(**task.params["train"]),
            pivots_per_step=config.pivots_per_step, identity_balance=task.params["identity_balance"],
            seed=task.params["seed"], checkpoint=kept, progress=report_steps(task), device=task.call.device,
        )  # fmt: skip
        confidence = read_tensors(task.input("fit_confidence") / FITTED_WEIGHTS, load_file)
        write_weights(task, trained.state_dict() | {f"{PREFIX}{name}": tensor for name, tensor in confidence.items()})
    return {"network": dict(network), "history": [entry.__dict__ for entry in history]}


def links(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write links as GCN-V's stage does, two columns, of either pass, for each of the probabilities asked for.

    At probability 0 a row that the network was asked about links to its likeliest candidate, else to the nearest of
    those of at least the probability.
    """
    config, leasts = GcnEConfig(**task.params["network"]), task.params["probabilities"]
    candidates = hold(("candidates", task.call.digest), lambda: _Candidates(task, config))
    network = _network(task, candidates.inputs_NI.shape[1], config)
    neighbors_nK = candidates.neighbors_NK[start:stop]
    listed = listed_in_passes(task, start, stop)
    linked, cosines = (
        np.tile(found, (1, len(leasts))) for found in find_links(task, start, listed, candidates.confidence_N)
    )
    undecided_N = hold(("undecided", task.call.digest), lambda: candidates.undecided(np.arange(len(candidates))))
    pivots = np.flatnonzero(undecided_N[start:stop]) + start

    def run(tile: tuple[int, int]) -> None:
        own = pivots[(pivots >= tile[0]) & (pivots < tile[1])]
        if not len(own):
            return
        batch = candidates.batch(own)
        logits = score_pivots(network, candidates.inputs_NI, own, batch, device=task.call.device)
        probabilities, rows = 1 / (1 + np.exp(-logits)), own[batch.scored_rows] - start
        near = [cosines_nK[rows, batch.scored_ranks] for cosines_nK in listed]
        likeliest, *nearest = (np.lexsort((batch.scored_ranks, -values, rows)) for values in (logits, *near))
        linked[own - start] = -1
        for column, (least, number) in enumerate(product(leasts, range(len(listed)))):
            order = nearest[number] if least else likeliest
            order = order[probabilities[order] >= least]
            first = order[np.unique(rows[order], return_index=True)[1]]
            linked[rows[first], column] = neighbors_nK[rows[first], batch.scored_ranks[first]]
            cosines[rows[first], column] = near[number][first]

    map_tiles(run, tile_bounds(start, stop, TILE_PIVOTS * 4), task.threads)
    task.write_rows("linked", linked, np.int32)
    task.write_rows("cosines", cosines, np.float32)
    return {"peaks": int((linked[:, 0] < 0).sum()), "asked": len(pivots)}


def select(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Choose the least cosine and probability on the identities held out from training; write ``selected.json``.

    Of those that are ``NO_WORSE`` than the best, the first of ``PROBABILITIES`` is taken.
    """
    identities_N = vertex_identities(task)
    held_out_N = hold_out(identities_N, task.params["holdout"], task.params["seed"])
    columns = list(product(PROBABILITIES, PASSES))
    points = [
        selection.select_links(*link_columns(task, number), identities_N, held_out_N) for number in range(len(columns))
    ]
    values = np.array([selection.mean_f(point) for point in points])
    best = int(np.flatnonzero(values >= values.max() - NO_WORSE)[0])
    facts = {"min_probability": columns[best][0], "pass": columns[best][1]}
    task.write_json(
        "selected", {"operating_points": {"components": points[best]}, "preferred": "components", "facts": facts}
    )
    return {"preferred": "components", **points[best], **facts}


class _Candidates:
    """The listed neighbours of higher confidence of every vertex."""

    def __init__(self, task: TaskContext, config: GcnEConfig) -> None:
        self.neighbors_NK = task.array("knn", "neighbors")
        embedded = config.inputs == "embedded"
        self.inputs_NI = task.array("confidence", "codes") if embedded else task.array("features", "features")
        self.confidence_N = np.array(task.array("confidence", "confidence"))
        self.active = config.active
        count = np.zeros(len(self.confidence_N), np.int32)
        for start, stop in tile_bounds(0, len(count), 65_536):
            count[start:stop] = self._wanted(np.arange(start, stop)).sum(axis=1)
        self.several_N = count > 1
        self.skip_share = config.skip_share

    def __len__(self) -> int:
        return len(self.confidence_N)

    def undecided(self, rows: np.ndarray) -> np.ndarray:
        """Which of ``rows`` the network decides about: of several candidates, and not of those least confident."""
        confidence = self.confidence_N[rows]
        skipped = int(self.skip_share * len(rows))
        least = np.partition(confidence, skipped)[skipped] if len(rows) else 0.0
        return (confidence >= least) & self.several_N[rows]

    def batch(self, pivots: np.ndarray) -> PivotBatch:
        """The candidates of some pivots and the edges among them."""
        return pivot_batch(
            self.neighbors_NK, pivots, self._wanted(pivots), second_hop=0, active=self.active, with_pivot=False
        )

    def _wanted(self, pivots: np.ndarray) -> np.ndarray:
        listed = self.neighbors_NK[pivots]
        higher = self.confidence_N[np.maximum(listed, 0)] > self.confidence_N[pivots][:, None]
        return (listed >= 0) & higher


def _network(task: TaskContext, dim: int, config: GcnEConfig) -> PivotNetwork:
    build = partial(build_network, dim, config.widths, config.hidden, seed=0)
    return read_network(task, build, device=task.call.device)


def _links(
    graph: GraphShape, config: GcnEConfig, probabilities: Sequence[float], params: Mapping[str, Any],
    weights: Mapping[str, str], where: Mapping[str, Any],
) -> Stage:  # fmt: skip
    n, k = graph.num_rows, graph.k
    asked, columns = n * (1 - config.skip_share), len(PASSES) * len(probabilities)
    given = dict(params) | {"network": config.model_dump(mode="json"), "probabilities": list(probabilities)}
    products = asked * _products(k, config.widths[0], config)
    cost = Cost(
        fixed_bytes=n * 16 + (64 << 20), bytes_per_row=k * 32 + columns * 16, disk_bytes=n * columns * 8,
        bytes_per_thread=TILE_PIVOTS * k * max(config.widths) * 64, seconds=n * k / 2e6 + products * 2 / 4e10,
        kind="floats",
    )  # fmt: skip
    inputs = {"knn": "knn", "confidence": "confidence", "features": graph.features, **weights}
    return Stage("links", f"{_HERE}:links", LINKS_VERSION, given, inputs, n, cost, where)


def _products(k: int, width: int, config: GcnEConfig) -> float:
    """Multiplications of one vertex, of whose neighbours half are candidates."""
    return float(max(k // 2, 1) * count_products(width, config.widths))
