"""What the last version of a run's collection holds, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.evidence import COSINE_BANDWIDTH, edge_weights
from engine.clustering.matching import EVENTS
from engine.collection.assigning import ROOM, memberships
from engine.collection.state import State, read_lineage
from engine.collection.tables import cluster_table
from engine.commands.opening import open_collection
from engine.commands.resources import Resources, count_threads
from engine.evaluation.explain import ClusterTable, RowTable, ScoredEdges, explain_labels

Table = dict[str, Any]


class CollectionTables:
    """The tables of one version of a collection; see ``engine.commands.collection.Collection``."""

    def __init__(self, root: str | Path, *, threads: int = 0) -> None:
        self.threads = count_threads(Resources(threads=threads))
        self.root, self.held = open_collection(root)

    @property
    def version(self) -> int:
        """The number of the last update, 0 for the run itself."""
        return self.held.number

    @cached_property
    def labels(self) -> np.ndarray:
        """The cluster of each row, (N,) int64; -1 for a row that was dropped."""
        return self.held.labels(self.root)

    @cached_property
    def row_ids(self) -> list[Any]:
        """The id of each row, as the source names it; its number where the source has no ids."""
        return self.held.ids(self.root).to_list()

    def rows(self) -> Table:
        """Give the table of rows: ``id``, ``cluster``, and how sure that is, as in an export."""
        rows, _ = self.explained
        return {"id": self.row_ids, "cluster": self.labels, **rows.__dict__}

    def clusters(self) -> Table:
        """Give the table of clusters, by id.

        ``cluster``, ``rows``, ``confidence``, ``cohesion`` and ``nearest`` as in an export; ``medoid``: the id of the
        row that is most similar to all others; ``keep``: the id of the row to keep if one is to stand for all, which
        is the first copy of the medoid.
        """
        _, explained = self.explained
        medoids, kept = cluster_table(self.state, explained.labels)
        ids = self.state.ids
        return {
            "cluster": explained.labels,
            "rows": explained.sizes,
            "medoid": ids.take(medoids).to_list(),
            "keep": ids.take(kept).to_list(),
            "confidence": explained.confidence,
            "cohesion": explained.cohesion,
            "nearest": explained.nearest,
        }

    def memberships(self) -> Table:
        """Give each row's clusters of most evidence: ``id``, ``nearest`` and ``probability``, (N, 3) each.

        ``nearest`` is -1 where there are fewer. See ``engine.collection.assigning.memberships``.
        """
        nearest, probabilities = memberships(self.state)
        return {"id": self.row_ids, "nearest": nearest, "probability": probabilities}

    def lineage(self) -> Table:
        """Give what became of clusters: ``update``, ``event``, ``cluster``, ``other``, ``rows``, oldest first.

        Events are those of ``engine.clustering.matching.Lineage``.
        """
        table: Table = dict(read_lineage(self.state.history))
        return table | {"event": [EVENTS[int(code)] for code in table["event"]]}

    def decisions(self) -> Table:
        """Give what people decided and clusters hold: ``a``, ``b`` (ids of rows), ``same``."""
        a, b = self.state.pairs.T
        ids = self.state.ids
        return {"a": ids.take(a).to_list(), "b": ids.take(b).to_list(), "same": self.state.same}

    @cached_property
    def state(self) -> State:
        """The version in memory, with room for queries."""
        return self.held.open(self.root, room=ROOM, threads=self.threads)

    @cached_property
    def explained(self) -> tuple[RowTable, ClusterTable]:
        """How sure each row's cluster is, and what edges say of each cluster."""
        return explain_labels(self.labels, self.scored_edges)

    def scored_edges(self) -> Iterator[ScoredEdges]:
        """Give all edges by row, in blocks; those between copies and what stands for them come last and are certain."""
        state, learned = self.state, self.held.kept.learned
        for sources, targets, scores in state.edges():
            evidence = scores if learned else edge_weights(scores, "exponential", bandwidth=COSINE_BANDWIDTH)
            yield ScoredEdges(state.row_numbers[sources], state.row_numbers[targets], scores, evidence)
        rows = np.flatnonzero(state.leaders_N != np.arange(state.num_rows)).astype(np.int32)
        certain = np.ones(len(rows), np.float32)
        yield ScoredEdges(state.leaders_N[rows], rows, certain, certain)
