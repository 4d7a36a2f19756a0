"""GCN-D and GCN-S (Yang et al., "Learning to Cluster Faces on an Affinity Graph", CVPR 2019).

What it fits: a network that rates cluster proposals by their IoU and IoP with an identity (GCN-D, section 3.3), and for
``gcn_s`` one that says which members of a proposal are of a seed's identity (GCN-S, section 3.4). How it clusters: the
proposals, super-vertices at several least similarities and unions of them (section 3.2), are rated, by ``gcn_s`` those
of middling IoP cut to their inliers, and each vertex goes to the best rated one that holds it (section 3.5).

Deviations: the default proposes at lower similarities too, and no unions (the published sets of 2, 5, 8 and 20 are
presets); what the networks read and how they convolve (``proposals``); one network gives IoU and IoP;
several seeds of each proposal are tried and the best rated cut is kept, as in the paper, where the released code draws
one; training stops on held-out identities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from engine.errors import ConfigError
from engine.graph.adjacency import EdgeList
from engine.learning.held_out import hold_out
from engine.learning.settings import TrainSettings
from engine.methods.base import NO_PRESETS, Graph, Method, Presets, Scoring, Training
from engine.methods.cosine.method import Cosine
from engine.methods.fitting import Weighted, checkpoint, from_model, report_steps, write_weights
from engine.methods.gcn_d.proposals import Graph as ProposalGraph
from engine.methods.gcn_d.proposals import ProposalNetwork, build_network, rate, refine, remove_overlap, train_proposals
from engine.methods.gcn_d.settings import PRESETS, GcnDSettings
from engine.methods.gcn_d.super_vertices import Proposals, propose, searched_means, united_thresholds
from engine.methods.model_card import Model, Nature
from engine.partitions import OWN, Clustered
from engine.partitions.select import SelectOwn
from engine.runs.step import F, Facts, Step, Task
from engine.settings import Settings
from engine.stages import Cost
from engine.steps.edges import Scores, iterate_edges
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order, search_cost
from engine.steps.labels import Labelled, OutsideFile

VERSION = 2  # of every step here
_PROPOSING = {"thresholds", "max_size", "min_size", "unions", "union_thresholds", "union_similarity", "union_max_size"}


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
                name = _name(segments)
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
        return self.read_network(task, build, prefix=f"{_name(segments)}.")


def _name(segments: bool) -> str:
    return "segmenter" if segments else "rater"


def num_members(num_rows: int, config: GcnDSettings) -> int:
    """Members of all proposals together, at most."""
    return num_rows * (len(config.thresholds) + len(united_thresholds(config)) * len(config.unions))


class GcnD(Method):
    """GCN-D."""

    name = "gcn_d"
    presets: Presets = PRESETS
    segments = False
    needs_model = True
    training_sections = (GcnDSettings, TrainSettings)
    partitions = ("own",)
    read_facts = ("network",)

    def check(self, settings: Settings, *, training: bool) -> None:
        """Refuse settings of unions where there are none, too."""
        super().check(settings, training=training)
        given = settings.of(GcnDSettings).model_fields_set & {"union_thresholds", "union_similarity", "union_max_size"}
        if given and not settings.of(GcnDSettings).unions:
            names = ", ".join(f"gcn_d.{name}" for name in sorted(given))
            raise ConfigError(f"{names}: without gcn_d.unions nothing is joined; set it, or leave out {names}")

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """The network that rates proposals and, of GCN-S, that which cuts them."""
        config = GcnDSettings(**model.nature.network)
        return {
            f"{_name(segments)}.": partial(build_network, model.dim, config, 0, segments=segments)
            for segments in ((False, True) if self.segments else (False,))
        }

    def untrained(self, settings: Settings) -> Nature:
        """What a model's weights belong to."""
        return Nature(network=settings.of(GcnDSettings).model_dump(mode="json"))

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """The cosine graph's edges, of which proposals are made."""
        return Cosine().score(graph, settings, None)

    def cluster(self, graph: Graph, settings: Settings, model: Model | None, score: Scores) -> Clustered:
        """``proposals`` and ``roots``, with the weights of ``model``."""
        assert model is not None
        return ProposedClusters(**self._rating(graph, GcnDSettings(**model.nature.network), score), **from_model(model))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``score``, ``proposals``, ``fit`` and ``select``, which hands on that clusters are its own."""
        score = Cosine().score(graph, settings, None).score
        fit = Fit(
            **self._rating(graph, settings.of(GcnDSettings), score),
            order=graph.order,
            train=settings.train,
            seed=settings.seed,
            **labels.given(),
        )
        return Training(fit, SelectOwn(fit=fit))

    def _rating(self, graph: Graph, network: GcnDSettings, score: Scores) -> dict[str, Any]:
        proposing = network.model_dump(mode="json", include=_PROPOSING)
        proposals = MadeProposals(score=score, features=graph.features, proposing=proposing)
        return {
            "features": graph.features,
            "knn": graph.knn,
            "proposals": proposals,
            "network": network,
            "segments": self.segments,
        }


class GcnS(GcnD):
    """GCN-D, and GCN-S, which cuts proposals to their inliers."""

    name = "gcn_s"
    presets = NO_PRESETS
    segments = True
