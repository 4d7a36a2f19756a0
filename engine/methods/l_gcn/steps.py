"""L-GCN's steps: the network over subgraphs around pivots, and the scores that it gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

from engine.graph.adjacency import rank_listed
from engine.graph.intrinsics import widen
from engine.graph.pivots import PivotBatch, pivot_batch
from engine.learning.pivots import PivotData, build_network, count_products, score_pivots, train_pivots
from engine.learning.settings import TrainSettings
from engine.methods.fitting import Weighted, checkpoint, report_steps, write_weights
from engine.methods.l_gcn.settings import LGcnSettings
from engine.runs.step import F, Facts, RowStep, Step, Task
from engine.stages import Cost
from engine.steps.edges import EDGE_BYTES, STORED_BYTES, EdgeFacts, Scores
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order
from engine.steps.labels import Labelled
from engine.tiles import map_tiles, tile_bounds

VERSION = 1  # of every step here
TILE_PIVOTS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Linking(Step[F]):
    """A step that reads the subgraphs around pivots, of edges of at least ``min_similarity``."""

    features: Vectors[Any]
    knn: Knn
    network: LGcnSettings
    min_similarity: float

    def batch(self, task: Task, pivots: np.ndarray) -> PivotBatch:
        """The subgraphs around some pivots."""
        neighbors_NK, similarities_NK = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        wanted = (neighbors_NK[pivots] >= 0) & (similarities_NK[pivots] >= np.float32(self.min_similarity))
        config = self.network
        return pivot_batch(
            neighbors_NK, pivots, wanted, second_hop=config.second_hop, active=config.active, with_pivot=True
        )

    @property
    def num_members(self) -> int:
        """Members of a pivot, about: many second neighbours are first ones, or each other's."""
        return int(1 + self.knn.k * (1 + self.network.second_hop / 4))

    @property
    def num_products(self) -> float:
        """Multiplications of one pivot."""
        return float(self.num_members * count_products(self.features.dim, self.network.widths))


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit(Linking[Facts], Labelled[Facts]):
    """The network, trained from the last checkpoint: ``weights.safetensors``."""

    kind, version, title = "l_gcn.fit", VERSION, "fit"
    order: Order | None
    train: TrainSettings
    identity_balance: float
    seed: int

    def cost(self) -> Cost:
        """Minibatches of pivots."""
        config, pivots = self.network, self.network.pivots_per_step
        return Cost(
            fixed_bytes=self.knn.num_rows * 48 + pivots * self.num_members * sum(config.widths) * 64,
            disk_bytes=32 << 20,
            seconds=self.train.max_steps * pivots * self.num_products * 6 / 4e10,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Train."""
        config, neighbors_NK = self.network, task.array(self.knn, "neighbors")
        data = PivotData(
            features_ND=task.array(self.features, "features"),
            neighbors_NK=neighbors_NK,
            identities_N=self.identities(self.order, task),
            usable_N=np.asarray(neighbors_NK[:, 0]) >= 0,
            batch_of=lambda pivots: self.batch(task, pivots),
        )
        with checkpoint(task) as kept:
            network, history = train_pivots(
                data,
                model=config,
                config=self.train,
                identity_balance=self.identity_balance,
                seed=self.seed,
                checkpoint=kept,
                progress=report_steps(task),
                device=task.call.device,
            )
            write_weights(task, network.state_dict())
        return {"network": config.model_dump(mode="json"), "history": [entry.__dict__ for entry in history]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Directed(Linking[None], Weighted[None], RowStep[None]):
    """``logits`` (N, K) float16: each row's log-odds of what it lists, NaN where it scores nothing."""

    kind, version, title = "l_gcn.directed", VERSION, "directed"

    def cost(self) -> Cost:
        """A tile of pivots."""
        n, k = self.num_rows, self.knn.k
        width = self.features.dim + max(self.network.widths) * 4
        return Cost(
            bytes_per_row=k * 2,
            fixed_bytes=64 << 20,
            disk_bytes=n * k * 2,
            bytes_per_thread=TILE_PIVOTS * self.num_members * width * 8,
            seconds=n * self.num_products * 2 / 4e10,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Score what these rows list."""
        features_ND, config = task.array(self.features, "features"), self.network
        build = partial(build_network, features_ND.shape[1], config, seed=0)
        network = self.read_network(task, build, device=task.call.device)
        logits = np.full((stop - start, task.array(self.knn, "neighbors").shape[1]), np.nan, np.float16)

        def run(tile: tuple[int, int]) -> None:
            pivots = np.arange(*tile)
            batch = self.batch(task, pivots)
            if len(batch.scored):
                found = score_pivots(network, features_ND, pivots, batch, device=task.call.device)
                logits[batch.scored_rows + tile[0] - start, batch.scored_ranks] = found

        map_tiles(run, tile_bounds(start, stop, TILE_PIVOTS), task.threads)
        task.write_rows("logits", logits, np.float16)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinkScores(Scores):
    """Every edge with the mean of the probabilities that its ends give each other."""

    kind, version = "l_gcn.score", VERSION
    directed: Directed

    def cost(self) -> Cost:
        """A block of edges."""
        n, k = self.num_rows, self.knn.k
        return Cost(bytes_per_row=k * EDGE_BYTES, disk_bytes=n * k * STORED_BYTES, seconds=n * k / 1e7)

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        neighbors_NK, logits_NK = task.array(self.knn, "neighbors"), task.array(self.directed, "logits")

        def give(sources: np.ndarray, targets: np.ndarray, _: np.ndarray) -> np.ndarray:
            scores = np.zeros(len(sources), np.float32)
            parts = tile_bounds(0, len(sources), 65_536)
            widened = logits_NK.view(np.int16)
            map_tiles(
                lambda t: _average_directions(
                    neighbors_NK, widened, sources[slice(*t)], targets[slice(*t)], scores[slice(*t)]
                ),
                parts,
                task.threads,
            )
            return scores

        return self.write(task, start, stop, give)


@numba.njit(nogil=True, cache=True)
def _average_directions(neighbors: Any, logits: Any, sources: Any, targets: Any, scores: Any) -> None:
    for edge in range(len(sources)):
        total, count = np.float32(0.0), np.float32(0.0)
        for own, other in ((sources[edge], targets[edge]), (targets[edge], sources[edge])):
            rank = rank_listed(neighbors[own], other)
            if rank >= 0:
                value = widen(logits[own, rank])
                if not np.isnan(value):
                    total += np.float32(1.0) / (np.float32(1.0) + np.exp(-value))
                    count += np.float32(1.0)
        scores[edge] = total / count if count > 0 else np.float32(0.0)
