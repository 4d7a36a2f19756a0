"""The networks that rate and refine cluster proposals: GCN-D and GCN-S (Yang et al., CVPR 2019).

Legend: N vertices, D feature dimension, P proposals, M members of all proposals together, H width of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import DataError
from engine.graph.pivots import join_members
from engine.learning.layers import drawn_weights
from engine.learning.loop import Checkpoint, Evaluation, TrainingLoop
from engine.learning.pivots import MeanNeighbors
from engine.learning.settings import TrainSettings
from engine.methods.gcn_d.settings import GcnDSettings
from engine.methods.gcn_d.super_vertices import Proposals
from engine.random_streams import HELD_OUT_SEEDS, MINIBATCH, STOPPING_ROWS, stream
from engine.sections import fingerprint
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

HELD_OUT_PROPOSALS = 2_000
TILE_PROPOSALS = 16
NUM_SAID = 3  # numbers of a proposal beside its members: log size, mean and least cosine with its mean vector


def rate_truly(proposals: Proposals, identities_N: Array) -> tuple[Array, Array, Array]:
    """IoU and IoP of each proposal with its majority identity, and that identity (-1: none is known): (P,) each."""
    known = np.unique(identities_N, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(known)
    ious, iops = np.zeros(len(proposals), np.float32), np.zeros(len(proposals), np.float32)
    majority = np.full(len(proposals), -1, np.int64)
    for place, members in enumerate(proposals.sets()):
        own = known[members[identities_N[members] >= 0]]
        if len(own):
            counts = np.bincount(own)
            best = int(np.argmax(counts))
            inside = int(counts[best])
            ious[place] = inside / (len(members) + sizes[best] - inside)
            iops[place] = inside / len(members)
            majority[place] = identities_N[members[known[members] == best][0]]
    return ious, iops, majority


class ProposalNetwork(nn.Module):
    """Two graph convolutions over a proposal; the maximum over its members, rated (GCN-D), or each of them (GCN-S).

    Vectors are taken less their proposal's mean, a convolution is ReLU(W [member ; mean of its neighbours]), and the
    proposal's size and cohesion are rated beside the maximum, through one layer more: none of it published, but raw
    coordinates of train identities, averaged, say next to nothing of others. GCN-D gives two numbers, IoU and IoP
    (published: two networks); GCN-S, whose vectors have one coordinate more that marks the seed, one logit.
    """

    def __init__(self, dimension: int, config: GcnDSettings, *, segments: bool) -> None:
        super().__init__()
        sizes = [dimension + segments, *config.widths]
        self.convolutions = nn.ModuleList(nn.Linear(2 * a, b) for a, b in zip(sizes[:-1], config.widths, strict=True))
        width = config.widths[-1]
        self.middle = nn.Linear(2 * width if segments else width + NUM_SAID, width)
        self.last = nn.Linear(width, 1 if segments else 2)
        self.segments = segments

    def forward(self, vectors_MD: Tensor, graph: tuple[Array, Array], owners_M: Tensor, said_PS: Tensor) -> Tensor:
        """Return ratings (P, 2) or logits (M,)."""
        count = len(said_PS)
        indptr, indices = graph
        rows = vectors_MD
        for convolution in self.convolutions:
            around = MeanNeighbors.apply(rows, indptr, indices)  # type: ignore[no-untyped-call]
            rows = functional.relu(convolution(torch.cat([rows, around], dim=1)))
        spread = owners_M.unsqueeze(1).expand_as(rows)
        largest = torch.full((count, rows.shape[1]), 0.0, device=rows.device).scatter_reduce(0, spread, rows, "amax")
        if self.segments:
            each = functional.relu(self.middle(torch.cat([rows, largest[owners_M]], dim=1)))
            return self.last(each).squeeze(1)
        return torch.sigmoid(self.last(functional.relu(self.middle(torch.cat([largest, said_PS], dim=1)))))


def build_network(dimension: int, config: GcnDSettings, seed: int, *, segments: bool) -> ProposalNetwork:
    """Build a network with weights drawn from ``seed`` alone."""
    with drawn_weights(seed):
        return ProposalNetwork(dimension, config, segments=segments)


@dataclass(frozen=True)
class Graph:
    """What the networks read: unit vectors (N, D) and neighbours (N, K)."""

    features_ND: Array
    neighbors_NK: Array

    def run(self, network: ProposalNetwork, proposals: Proposals, seeds_P: Array | None = None) -> Tensor:
        """A network's answer to some proposals; ``seeds_P``: the place of each one's seed among all members."""
        vectors = np.asarray(self.features_ND[proposals.members_M], np.float32)
        sizes = np.diff(proposals.starts)
        means = np.add.reduceat(vectors, proposals.starts[:-1], axis=0) / sizes[:, None]
        around = np.repeat(means, sizes, axis=0)
        cosines = np.einsum("md,md->m", vectors, around) / np.maximum(np.linalg.norm(around, axis=1), 1e-6)
        said = [np.log(sizes), *(each.reduceat(cosines, proposals.starts[:-1]) for each in (np.add, np.minimum))]
        said = [said[0], 10 * (said[1] / sizes) - 8, 10 * said[2] - 6]  # about as large as each other
        vectors -= around
        if seeds_P is not None:
            marks = np.zeros((len(vectors), 1), np.float32)
            marks[seeds_P] = 1
            vectors = np.concatenate([vectors, marks], axis=1)
        active = self.neighbors_NK.shape[1]
        joined = join_members(self.neighbors_NK, proposals.members_M, proposals.starts, active)
        owners = torch.from_numpy(np.repeat(np.arange(len(proposals)), sizes))
        numbers = torch.from_numpy(np.stack(said, axis=1).astype(np.float32))
        answer: Tensor = network(torch.from_numpy(vectors), joined, owners, numbers)
        return answer


def train_proposals(
    graph: Graph,
    proposals: Proposals,
    identities_N: Array,
    held_out_N: Array,
    *,
    segments: bool,
    model: GcnDSettings,
    config: TrainSettings,
    seed: int,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ProposalNetwork, list[Evaluation]]:
    """Fit GCN-D to IoU and IoP, or GCN-S to who is of the seed's identity; stopped on proposals of held-out identities.

    GCN-S learns from proposals that hold others than their majority. Raises ``DataError`` if none is left.
    """
    ious, iops, majority = rate_truly(proposals, identities_N)
    usable = (majority >= 0) & (((iops > 0.1) & (iops < 1)) if segments else True)
    held_P = np.isin(majority, identities_N[held_out_N])
    fitted, held = np.flatnonzero(usable & ~held_P), np.flatnonzero(usable & held_P)
    if not len(fitted) or not len(held):
        raise DataError(
            "training: no cluster proposal of identities to learn from, or of held-out ones; lower gcn_d.thresholds"
        )
    held = np.sort(stream(seed, STOPPING_ROWS).permutation(held)[:HELD_OUT_PROPOSALS])
    network = build_network(graph.features_ND.shape[1], model, seed, segments=segments)
    targets = torch.from_numpy(np.stack([ious, iops], axis=1))

    def loss_of(chosen: Array, rng: np.random.Generator) -> Tensor:
        taken = proposals.take(chosen)
        if not segments:
            return functional.mse_loss(graph.run(network, taken), targets[chosen])
        sizes = np.diff(taken.starts)
        seeds = taken.starts[:-1] + (rng.random(len(chosen)) * sizes).astype(np.int64)
        own = identities_N[taken.members_M]
        wanted = np.repeat(own[seeds], sizes)
        known = torch.from_numpy((own >= 0) & (wanted >= 0))
        logits = graph.run(network, taken, seeds)
        same = torch.from_numpy(own == wanted).to(logits)
        if not known.any():
            return logits.sum() * 0
        return functional.binary_cross_entropy_with_logits(logits[known], same[known])

    def loss_of_step(step: int) -> Tensor:
        rng = stream(seed, MINIBATCH, step)
        return loss_of(fitted[rng.integers(0, len(fitted), model.proposals_per_step)], rng)

    def evaluate() -> tuple[float, None]:
        parts = [held[a : a + TILE_PROPOSALS] for a in range(0, len(held), TILE_PROPOSALS)]
        losses = [float(loss_of(part, stream(seed, HELD_OUT_SEEDS, n))) for n, part in enumerate(parts)]
        return float(np.average(losses, weights=[len(part) for part in parts])), None

    loop = TrainingLoop(network, config, fingerprint([model, config, segments, seed, len(proposals)]))
    step = loop.restore(checkpoint)
    loop.run(step, loss_of_step=loss_of_step, evaluate=evaluate, checkpoint=checkpoint, progress=progress)
    return network, loop.history


def rate(network: ProposalNetwork, graph: Graph, proposals: Proposals, *, threads: int = 1) -> Array:
    """Predicted IoU and IoP: (P, 2) float32."""
    network = network.eval()
    ratings = np.zeros((len(proposals), 2), np.float32)

    def run(tile: tuple[int, int]) -> None:
        with torch.no_grad():
            ratings[slice(*tile)] = graph.run(network, proposals.take(np.arange(*tile))).numpy()

    map_tiles(run, tile_bounds(0, len(proposals), TILE_PROPOSALS), threads)
    return ratings


def refine(
    segmenter: ProposalNetwork,
    rater: ProposalNetwork,
    graph: Graph,
    proposals: Proposals,
    num_seeds: int,
    *,
    threads: int = 1,
) -> tuple[Proposals, Array]:
    """Cut each proposal to the inliers of one of its seeds, the cut that is rated best (several, as in the paper).

    Seeds are spread over the members; inliers are those of a logit above 0. Returns cuts of two members and more, and
    their ratings (P', 2).
    """
    segmenter = segmenter.eval()
    tiles = tile_bounds(0, len(proposals), TILE_PROPOSALS)

    def run(tile: tuple[int, int]) -> list[tuple[Proposals, Array]]:
        with torch.no_grad():
            taken = proposals.take(np.arange(*tile))
            sizes = np.diff(taken.starts)
            best: list[Array] = [np.empty(0, np.int32)] * len(taken)
            ratings = np.full((len(taken), 2), -1.0, np.float32)
            for number in range(num_seeds):
                seeds = taken.starts[:-1] + sizes * number // num_seeds
                inliers = graph.run(segmenter, taken, seeds).numpy() > 0
                cuts = [taken.members_M[a:b][inliers[a:b]] for a, b in pairwise(taken.starts)]
                places = np.array([place for place, cut in enumerate(cuts) if len(cut) > 1], np.int64)
                if not len(places):
                    continue
                kept = Proposals.gather([cuts[place] for place in places])
                found = graph.run(rater, kept).numpy()
                for place, rating in zip(places, found, strict=True):
                    if rating[0] > ratings[place, 0]:
                        best[place], ratings[place] = cuts[place], rating
            chosen = np.array([place for place, cut in enumerate(best) if len(cut)], np.int64)
            return [(Proposals.gather([best[place] for place in chosen]), ratings[chosen])] if len(chosen) else []

    found = [part for parts in map_tiles(run, tiles, threads) for part in parts]
    members = [part for each, _ in found for part in each.sets()]
    return Proposals.gather(members), np.concatenate([np.zeros((0, 2), np.float32), *(ratings for _, ratings in found)])


def remove_overlap(num_vertices: int, proposals: Proposals, ratings_P: Array) -> Array:
    """Give each vertex to the best rated proposal that holds it; the others are alone. ``roots`` (N,) int32."""
    order = np.lexsort((np.arange(len(proposals)), -ratings_P))
    owners_N = np.full(num_vertices, -1, np.int64)
    _claim(proposals.members_M, proposals.starts, order, owners_N)
    alone = owners_N < 0
    owners_N[alone] = len(proposals) + np.flatnonzero(alone)
    first, places = np.unique(owners_N, return_index=True, return_inverse=True)[1:]
    return first[places.reshape(-1)].astype(np.int32)


@numba.njit(nogil=True, cache=True)
def _claim(members: Array, starts: Array, order: Array, owners: Array) -> None:
    for proposal in order:
        for place in range(starts[proposal], starts[proposal + 1]):
            if owners[members[place]] < 0:
                owners[members[place]] = proposal
