"""STAR-FC's minibatches: what a step takes of the graph, by (seed, step) alone, and the network's logits of it.

Legend: N vertices, D feature dimension, K neighbours, E edges, F edge inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.graph.adjacency import EdgeList
from engine.graph.sampling import EdgeSampler, SubgraphSampler, subgraph_edges
from engine.learning.settings import SamplingSettings, TrainSettings
from engine.methods.star_fc.network import StarFC
from engine.methods.star_fc.scoring import edge_inputs
from engine.random_streams import MINIBATCH, stream

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class GraphData:
    """What training reads: plain or memory-mapped arrays over the same N vertices.

    ``features_ND`` unit vectors and ``aggregated_ND`` their rows of Âx, both float16; ``identities_N`` integers, -1
    where unknown (such rows are never trained on); ``smaller_ND`` rows of Âx of smaller neighbourhoods, ascending, for
    a network that takes them.
    """

    features_ND: Array
    aggregated_ND: Array
    neighbors_NK: Array
    similarities_NK: Array
    identities_N: Array
    smaller_ND: Sequence[Array] = ()

    def rows(self, vertices: Array, device: str) -> list[Tensor]:
        """What a network encodes these vertices from, as float32."""
        arrays = self.features_ND, *self.smaller_ND, self.aggregated_ND
        return [torch.from_numpy(array[vertices].astype(np.float32)).to(device) for array in arrays]


class Minibatch(NamedTuple):
    """Edges with their inputs besides the codes, and whether both ends are one identity."""

    sources: Array
    targets: Array
    inputs_EF: Array
    same_E: Array

    def share(self, number: int, count: int) -> Minibatch:
        """Every ``count``-th edge from ``number`` on."""
        return Minibatch(*(column[number::count] for column in self))


class MinibatchSource:
    """Draws the minibatch of any step, and keeps the subgraph that it drew the last from."""

    def __init__(
        self,
        data: GraphData,
        held_out_N: Array,
        sampling: SamplingSettings,
        config: TrainSettings,
        seed: int,
        threads: int,
    ) -> None:
        self.data, self.sampling, self.config, self.seed, self.threads = data, sampling, config, seed, threads
        fit = np.where(held_out_N, -1, data.identities_N)
        self._sampler = SubgraphSampler(data.features_ND, fit, sampling, seed)
        self._sampled: tuple[int, EdgeList, EdgeSampler] | None = None

    def subgraph(self, index: int) -> tuple[EdgeList, EdgeSampler]:
        """Sample a subgraph: its edges, and what draws from them."""
        vertices = self._sampler.vertices(index)
        edges = subgraph_edges(self.data.neighbors_NK, self.data.similarities_NK, vertices)
        return edges, EdgeSampler(edges, self.data.identities_N, self.sampling)

    def draw(self, step: int) -> tuple[Minibatch, np.random.Generator]:
        """Draw a step's minibatch, empty if its subgraph is; dropout goes on with the generator."""
        index = step // self.config.steps_per_subgraph
        if self._sampled is None or self._sampled[0] != index:
            self._sampled = (index, *self.subgraph(index))
        _, edges, sampler = self._sampled
        rng = stream(self.seed, MINIBATCH, step)
        places, same = sampler.draw(rng, self.config.edges_per_step)
        return self.describe(edges, places, same), rng

    def describe(self, edges: EdgeList, places: Array, same: Array) -> Minibatch:
        """Compute the inputs of some of the edges."""
        data, chosen = self.data, EdgeList(*(column[places] for column in edges))
        graph = data.neighbors_NK, data.similarities_NK, data.aggregated_ND
        return Minibatch(chosen.sources, chosen.targets, edge_inputs(*graph, chosen, threads=self.threads), same)


def compute_logits(
    model: StarFC, data: GraphData, batch: Minibatch, device: str, generator: np.random.Generator | None = None
) -> tuple[Tensor, Tensor | float]:
    """Compute the logits (E,) of "same identity", and what a loss takes besides.

    With a generator as in training, where dropout and the network's own choices are drawn from it.
    """
    used, places = np.unique(np.concatenate([batch.sources, batch.targets]), return_inverse=True)
    rows = data.rows(used, device)
    codes, penalty = (model.encode(*rows), 0.0) if generator is None else model.encode_fitting(rows, generator)
    ends = codes[torch.from_numpy(places).to(device)]
    first, second = ends[: len(batch.sources)], ends[len(batch.sources) :]
    return model.edge_logits(first, second, torch.from_numpy(batch.inputs_EF).to(device), generator), penalty
