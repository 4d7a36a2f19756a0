"""CDP's steps: votes of a committee, and the mediator's training and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.graph.adjacency import EdgeList, undirected_edges
from engine.learning.held_out import hold_out
from engine.learning.settings import TrainSettings
from engine.methods.cdp.mediator import Member, build_mediator, count_votes, mediate, pair_inputs, train_mediator
from engine.methods.fitting import Weighted, checkpoint, report_steps, write_weights
from engine.runs.step import F, Facts, Step, Task
from engine.stages import Cost
from engine.steps.edges import EDGE_BYTES, STORED_BYTES, EdgeFacts, Scores
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order, vertex_rows
from engine.steps.labels import Labelled
from engine.storage.context import hold
from engine.units import CHUNK_ROWS

VERSION = 1  # of every step here


@dataclass(frozen=True, kw_only=True, eq=False)
class Consulting(Step[F]):
    """A step that asks a committee: of each member its vectors, graph and, if its vertices have one, their order."""

    knn: Knn
    order: Order | None = None
    members: tuple[Knn, ...] = ()
    member_vectors: tuple[Vectors[Any], ...] = ()
    member_orders: tuple[Order | None, ...] = ()

    def committee(self, task: Task) -> tuple[Member, list[Member], np.ndarray | None]:
        """The base and the members, both by source row, and the row of each vertex of the base."""

        def rows(order: Order | None) -> np.ndarray | None:
            return None if order is None else np.array(vertex_rows(task, order))

        def member(knn: Knn, order: Order | None, vectors: Vectors[Any] | None) -> Member:
            rows_V, vertex_of_row = rows(order), None
            if rows_V is not None:
                vertex_of_row = np.empty_like(rows_V)
                vertex_of_row[rows_V] = np.arange(len(rows_V), dtype=rows_V.dtype)
            features_ND = None if vectors is None else task.array(vectors, "features")
            return Member(task.array(knn, "neighbors"), vertex_of_row, features_ND)

        def load() -> tuple[Member, list[Member], np.ndarray | None]:
            members = zip(self.members, self.member_orders, self.member_vectors, strict=True)
            return member(self.knn, self.order, None), [member(*each) for each in members], rows(self.order)

        return hold(("committee", task.call.digest), load)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairScores(Scores, Consulting[EdgeFacts]):
    """A step that scores pairs."""

    def cost(self) -> Cost:
        """A block of edges, looked up in every member."""
        n, k, members = self.num_rows, self.knn.k, len(self.members)
        return Cost(
            fixed_bytes=n * 16 * (members + 1),
            bytes_per_row=k * (EDGE_BYTES + 16 * members),
            disk_bytes=n * k * STORED_BYTES,
            seconds=n * k / 1.5e7 + members * n * k * k / 3e8,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Vote(PairScores):
    """Every pair with its cosine, -1 for those that fewer than ``accept`` members list."""

    kind, version = "cdp.vote", VERSION
    accept: int

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the pairs of these rows."""
        if not self.accept:
            return self.write(task, start, stop, lambda _a, _b, similarities: similarities)
        _, members, rows_V = self.committee(task)

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            votes = count_votes(members, _rows(rows_V, sources), _rows(rows_V, targets))
            return np.where(votes >= self.accept, similarities, -1).astype(np.float32)

        return self.write(task, start, stop, give)


@dataclass(frozen=True, kw_only=True, eq=False)
class FitMediator(Consulting[Facts], Labelled[Facts]):
    """The mediator, trained from the last checkpoint on all pairs of known identity: ``weights.safetensors``."""

    kind, version, title = "cdp.fit", VERSION, "fit"
    train: TrainSettings
    seed: int
    network: Mapping[str, Any]

    def cost(self) -> Cost:
        """What is said of all pairs."""
        n, pairs = self.knn.num_rows, self.knn.num_rows * self.knn.k
        held = n * 60 + pairs * (12 * len(self.members) + 40)
        return Cost(fixed_bytes=held, disk_bytes=1 << 20, seconds=pairs / 5e5)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Train."""
        identities_N = self.identities(self.order, task)
        held_out_N = hold_out(identities_N, self.train.holdout, self.seed)
        base, members, rows_V = self.committee(task)
        inputs, same, held_out = [], [], []
        for edges in self._blocks(task):
            known = (identities_N[edges.sources] >= 0) & (identities_N[edges.targets] >= 0)
            a, b, cosines = (column[known] for column in edges)
            inputs.append(pair_inputs(base, members, _rows(rows_V, a), _rows(rows_V, b), cosines, threads=task.threads))
            same.append(identities_N[a] == identities_N[b])
            held_out.append(held_out_N[a] | held_out_N[b])
        with checkpoint(task) as kept:
            mediator, history = train_mediator(
                np.concatenate(inputs),
                np.concatenate(same),
                np.concatenate(held_out),
                config=self.train,
                seed=self.seed,
                checkpoint=kept,
                progress=report_steps(task),
            )
            write_weights(task, mediator.state_dict())
        return {"network": dict(self.network), "history": [entry.__dict__ for entry in history]}

    def _blocks(self, task: Task) -> Iterator[EdgeList]:
        graph = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        for first in range(0, len(graph[0]), CHUNK_ROWS):
            yield undirected_edges(*graph, first, min(first + CHUNK_ROWS, len(graph[0])), threads=task.threads)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mediated(PairScores, Weighted[EdgeFacts]):
    """Every pair with the mediator's probability."""

    kind, version = "cdp.score", VERSION

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the pairs of these rows."""
        base, members, rows_V = self.committee(task)
        mediator = self.read_network(task, partial(build_mediator, 3 * len(members) + 2, seed=0))

        def give(sources: np.ndarray, targets: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            rows = _rows(rows_V, sources), _rows(rows_V, targets)
            inputs = pair_inputs(base, members, *rows, similarities, threads=task.threads)
            return mediate(mediator, inputs, threads=task.threads)

        return self.write(task, start, stop, give)


def _rows(rows_V: np.ndarray | None, vertices: np.ndarray) -> np.ndarray:
    return vertices if rows_V is None else rows_V[vertices]
