"""GCN-E's steps: the network over a vertex's candidates, the links that follow, and the choice of thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from safetensors.torch import load_file

from engine.errors import DataError
from engine.graph.pivots import PivotBatch, pivot_batch
from engine.learning import selection
from engine.learning.held_out import hold_out
from engine.learning.pivots import PivotData, build_network, count_products, score_pivots, train_pivots
from engine.learning.settings import TrainSettings
from engine.learning.tensors import read_tensors
from engine.methods.fitting import FITTED_WEIGHTS, Weighted, checkpoint, report_steps, write_weights
from engine.methods.gcn_e.settings import GcnESettings
from engine.methods.gcn_v.steps import PASSES, Confidence, FitConfidence, Links, link_column, write_choice
from engine.partitions.select import Selection
from engine.runs.step import Facts, Task
from engine.stages import Cost
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order
from engine.steps.labels import Labelled
from engine.storage.context import hold
from engine.tiles import map_tiles, tile_bounds

TILE_PIVOTS = 32
PREFIX = "confidence."  # of the names of GCN-V's weights in the model's file
PROBABILITIES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.0)  # the first leave GCN-V's links nearly as they are
NO_WORSE = 0.01  # in F: the network is surer of identities learned by heart, so its word counts less than it seems


class FirstConfidence(FitConfidence):
    """GCN-V's network, by which the candidates are found."""

    title = "fit_confidence"


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit(Labelled[Facts]):
    """The network, trained from the last checkpoint: ``weights.safetensors``, GCN-V's among them."""

    kind, version, title = "gcn_e.fit", 5, "fit"
    features: Vectors[Any]
    knn: Knn
    order: Order | None
    confidence: Confidence
    fit_confidence: FirstConfidence
    network: GcnESettings
    train: TrainSettings
    identity_balance: float
    seed: int

    def cost(self) -> Cost:
        """Minibatches of pivots."""
        n, k, config = self.knn.num_rows, self.knn.k, self.network
        products = num_products(k, self.confidence.network.hidden, config)
        work = self.train.max_steps * config.pivots_per_step * products
        return Cost(
            fixed_bytes=n * (64 + k * 8) + config.pivots_per_step * k * sum(config.widths) * 64,
            disk_bytes=32 << 20,
            seconds=work * 6 / 4e10,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Train."""
        config = self.network
        candidates = _Candidates(task, self.knn, self.confidence, self.features, config)
        identities_N = self.identities(self.order, task)
        held_out_N = hold_out(identities_N, self.train.holdout, self.seed)
        usable_N, held = candidates.several_N.copy(), np.flatnonzero(held_out_N)
        usable_N[held] = candidates.undecided(held)  # among themselves: rows learned by heart are surer
        for name, part_N in (("held-out", held_out_N), ("other", ~held_out_N)):
            if not (usable_N & part_N & (identities_N >= 0)).any():
                raise DataError(
                    f"training gcn_e: of {np.count_nonzero(part_N):,} rows of {name} identities, none that counts "
                    f"lists two rows of higher confidence to choose from (of held-out ones the "
                    f"{1 - config.skip_share:.0%} of highest confidence count); expected more rows, or a lower "
                    f"gcn_e.skip_share or knn.k (here {candidates.neighbors_NK.shape[1]})"
                )
        data = PivotData(
            features_ND=candidates.inputs_NI,
            neighbors_NK=candidates.neighbors_NK,
            identities_N=identities_N,
            usable_N=usable_N,
            batch_of=candidates.batch,
        )
        with checkpoint(task) as kept:
            trained, history = train_pivots(
                data,
                model=config,
                config=self.train,
                identity_balance=self.identity_balance,
                seed=self.seed,
                checkpoint=kept,
                progress=report_steps(task),
                device=task.call.device,
            )
            found = read_tensors(task.input(self.fit_confidence) / FITTED_WEIGHTS, load_file)
            write_weights(task, trained.state_dict() | {f"{PREFIX}{name}": tensor for name, tensor in found.items()})
        networks = {"gcn_v": self.confidence.network, "gcn_e": config}
        trees = {name: network.model_dump(mode="json") for name, network in networks.items()}
        return {"network": trees, "history": [entry.__dict__ for entry in history]}


@dataclass(frozen=True, kw_only=True, eq=False)
class LikelyLinks(Links, Weighted[Facts]):
    """GCN-V's links, but for rows that the network was asked about: two columns for each of the ``probabilities``.

    At probability 0 such a row links to its likeliest candidate, else to the nearest of those of at least the
    probability.
    """

    kind, version = "gcn_e.links", 3
    features: Vectors[Any]
    network: GcnESettings
    probabilities: tuple[float, ...]

    def cost(self) -> Cost:
        """A tile of pivots."""
        n, k, config = self.num_rows, self.knn.k, self.network
        asked, columns = n * (1 - config.skip_share), len(PASSES) * len(self.probabilities)
        products = asked * num_products(k, config.widths[0], config)
        return Cost(
            fixed_bytes=n * 16 + (64 << 20),
            bytes_per_row=k * 32 + columns * 16,
            disk_bytes=n * columns * 8,
            bytes_per_thread=TILE_PIVOTS * k * max(config.widths) * 64,
            seconds=n * k / 2e6 + products * 2 / 4e10,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Link these vertices."""
        config, leasts = self.network, self.probabilities
        candidates = hold(
            ("candidates", task.call.digest),
            lambda: _Candidates(task, self.knn, self.confidence, self.features, config),
        )
        build = partial(build_network, candidates.inputs_NI.shape[1], config, seed=0)
        network = self.read_network(task, build, device=task.call.device)
        neighbors_nK = candidates.neighbors_NK[start:stop]
        listed = self.listed_in_passes(task, start, stop)
        linked, cosines = (
            np.tile(found, (1, len(leasts))) for found in self.find_links(task, start, listed, candidates.confidence_N)
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


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectProbability(Labelled[Facts], Selection):
    """The least cosine and probability, and the pass, chosen on the identities held out from training.

    Of those that are ``NO_WORSE`` than the best, the first of ``PROBABILITIES`` is taken.
    """

    kind, version = "gcn_e.select", 3
    links: LikelyLinks
    order: Order | None
    seed: int
    holdout: float

    def cost(self) -> Cost:
        """A union-find for each cosine tried of each column."""
        n = self.links.num_rows
        return Cost(fixed_bytes=n * 200, disk_bytes=1 << 16, seconds=n * self.links.knn.k / 2e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Choose; write ``selected.json``."""
        identities_N = self.identities(self.order, task)
        held_out_N = hold_out(identities_N, self.holdout, self.seed)
        columns = list(product(PROBABILITIES, PASSES))
        points = [
            selection.select_links(*link_column(task, self.links, number), identities_N, held_out_N)
            for number in range(len(columns))
        ]
        values = np.array([selection.mean_f(point) for point in points])
        best = int(np.flatnonzero(values >= values.max() - NO_WORSE)[0])
        facts = {"min_probability": columns[best][0], "pass": columns[best][1]}
        return {**write_choice(task, points[best], facts), **facts}


class _Candidates:
    """The listed neighbours of higher confidence of every vertex."""

    def __init__(self, task: Task, knn: Knn, found: Confidence, features: Vectors[Any], config: GcnESettings) -> None:
        self.neighbors_NK = task.array(knn, "neighbors")
        embedded = config.inputs == "embedded"
        self.inputs_NI = task.array(found, "codes") if embedded else task.array(features, "features")
        self.confidence_N = np.array(task.array(found, "confidence"))
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


def num_products(k: int, width: int, config: GcnESettings) -> float:
    """Multiplications of one vertex, of whose neighbours half are candidates."""
    return float(max(k // 2, 1) * count_products(width, config.widths))
