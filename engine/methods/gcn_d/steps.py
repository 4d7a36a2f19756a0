"""GCN-D's and GCN-S's steps: cluster proposals, the networks' training, and the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.graph.adjacency import EdgeList
from engine.learning.held_out import hold_out
from engine.learning.settings import TrainSettings
from engine.methods.fitting import Weighted, checkpoint, report_steps, write_weights
from engine.methods.gcn_d.proposals import Graph as ProposalGraph
from engine.methods.gcn_d.proposals import ProposalNetwork, build_network, rate, refine, remove_overlap, train_proposals
from engine.methods.gcn_d.settings import GcnDSettings
from engine.methods.gcn_d.super_vertices import Proposals, propose, searched_means, united_thresholds
from engine.partitions import OWN, Clustered
from engine.runs.step import F, Facts, Step, Task
from engine.stages import Cost
from engine.steps.edges import Scores, iterate_edges
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order, search_cost
from engine.steps.labels import Labelled

VERSION = 2  # of every step here


@dataclass(frozen=True)
class ProposalFacts:
    """How many proposals and members there are, and super-vertices that were cut for their size."""

    proposals: int
    members: int
    cut_for_size: int


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeProposals(Step[ProposalFacts]):
    """Cluster proposals: ``members`` (M,) int32 and ``starts`` (P + 1,) int64. ``proposing``: of ``gcn_d``."""

    kind, version, title = "gcn_d.proposals", VERSION, "proposals"
    facts = ProposalFacts
    score: Scores
    features: Vectors[Any]
    proposing: Mapping[str, Any]

    @property
    def config(self) -> GcnDSettings:
        return GcnDSettings(**self.proposing)

    def cost(self) -> Cost:
        """All edges in memory, and the proposals."""
        n, dim, config = self.score.num_rows, self.features.dim, self.config
        edges, held, united = n * self.score.knn.k, num_members(n, config) * 4, len(united_thresholds(config))
        search = search_cost(n, dim, 4, searched_means(n))
        return Cost(
            fixed_bytes=n * 120 + edges * 24 + held * 2 + (n * (dim * 4 + 100) if united else 0),
            bytes_per_thread=search.bytes_per_thread if united else 0,
            disk_bytes=held * 2,
            seconds=edges / 1e7 + held / 2e6 + united * search.seconds,
        )

    def run(self, task: Task, start: int, stop: int) -> ProposalFacts:
        """Propose."""
        parts = list(iterate_edges(task.input(self.score), ("source", "target", "similarity")))
        edges = EdgeList(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        features_ND = task.array(self.features, "features")
        proposals, cut = propose(edges, features_ND, self.config, threads=task.threads)
        task.write_npy("members", proposals.members_M)
        task.write_npy("starts", proposals.starts)
        return ProposalFacts(len(proposals), len(proposals.members_M), cut)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rating(Step[F]):
    """A step that reads proposals. ``segments``: whether GCN-S is of the party."""

    features: Vectors[Any]
    knn: Knn
    proposals: MadeProposals
    network: GcnDSettings
    segments: bool

    def read(self, task: Task) -> tuple[ProposalGraph, Proposals]:
        """The graph and its proposals."""
        members, starts = (np.array(task.npy(self.proposals, name)) for name in ("members", "starts"))
        graph = ProposalGraph(task.array(self.features, "features"), task.array(self.knn, "neighbors"))
        return graph, Proposals(members, starts)

    def cost(self) -> Cost:
        """A minibatch of proposals."""
        n, dim, config = self.knn.num_rows, self.features.dim, self.network
        members, largest = num_members(n, config), config.max_size
        if config.unions:
            largest = max(largest, config.union_max_size)
        return Cost(
            fixed_bytes=n * 40 + members * 16,
            bytes_per_thread=16 * largest * (dim + config.widths[0] * 3 + self.knn.k * 2) * 4,
            disk_bytes=n * 4 + (4 << 20),
            seconds=members * dim * config.widths[0] / 5e9,
            kind="floats",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit(Rating[Facts], Labelled[Facts]):
    """One network, or both, trained from the last checkpoint: ``weights.safetensors``."""

    kind, version, title = "gcn_d.fit", VERSION, "fit"
    order: Order | None
    train: TrainSettings
    seed: int

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Train."""
        identities_N = self.identities(self.order, task)
        held_out_N = hold_out(identities_N, self.train.holdout, self.seed)
        weights: dict[str, Any] = {}
        facts: dict[str, Any] = {}
        kinds = (False, True) if self.segments else (False,)
        graph, proposals = self.read(task)
        with ExitStack() as checkpoints:
            for number, segments in enumerate(kinds):
                network, history = train_proposals(
                    graph,
                    proposals,
                    identities_N,
                    held_out_N,
                    segments=segments,
                    model=self.network,
                    config=self.train,
                    seed=self.seed,
                    progress=report_steps(task, number, len(kinds)),
                    checkpoint=checkpoints.enter_context(checkpoint(task, f"checkpoint-{number}")),
                )
                name = network_name(segments)
                weights |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
                facts[f"{name}_history"] = [entry.__dict__ for entry in history]
            write_weights(task, weights)
        return {"network": self.network.model_dump(mode="json"), **facts}


@dataclass(frozen=True, kw_only=True, eq=False)
class ProposedClusters(Rating[Facts], Weighted[Facts], Clustered):
    """Proposals are rated, cut to their inliers if asked, and overlaps removed."""

    kind, version = "gcn_d.roots", VERSION

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Cluster."""
        config, (graph, proposals) = self.network, self.read(task)
        rater = self._network(task, segments=False)
        ratings = rate(rater, graph, proposals, threads=task.threads)
        cut = task.facts(self.proposals).cut_for_size
        facts = {"partition": OWN, "proposals": len(proposals), "super_vertices_cut_for_size": cut}
        if self.segments:
            middling = np.flatnonzero((ratings[:, 1] >= config.least_iop) & (ratings[:, 1] <= config.most_iop))
            segmenter, taken = self._network(task, segments=True), proposals.take(middling)
            cuts, rated = refine(segmenter, rater, graph, taken, config.num_seeds, threads=task.threads)
            facts |= {"refined": len(cuts)}
            proposals, ratings = Proposals.gather([*proposals.sets(), *cuts.sets()]), np.concatenate([ratings, rated])
        num_vertices = task.array(self.knn, "neighbors").shape[0]
        task.write_npy("roots", remove_overlap(num_vertices, proposals, ratings[:, 0]))
        return facts

    def _network(self, task: Task, *, segments: bool) -> ProposalNetwork:
        dim = task.array(self.features, "features").shape[1]
        build = partial(build_network, dim, self.network, 0, segments=segments)
        return self.read_network(task, build, prefix=f"{network_name(segments)}.")


def network_name(segments: bool) -> str:
    return "segmenter" if segments else "rater"


def num_members(num_rows: int, config: GcnDSettings) -> int:
    """Members of all proposals together, at most."""
    return num_rows * (len(config.thresholds) + len(united_thresholds(config)) * len(config.unions))
