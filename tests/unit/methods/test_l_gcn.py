"""Pivot subgraphs and the network over them: members, edges, means without padding, training that resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.graph.pivots import PivotBatch, pivot_batch
from engine.learning import pivots
from engine.learning.pivots import MeanNeighbors, PivotData, build_network, score_pivots, train_pivots
from engine.learning.settings import TrainSettings
from engine.methods.l_gcn.settings import LGcnSettings
from tests.support.toy_graphs import Memory, make_graph, toy_graph

Array = np.ndarray[Any, Any]
NETWORK = LGcnSettings(widths=(16, 8), hidden=8, pivots_per_step=16)
CONFIG = TrainSettings(max_steps=12, evaluate_every=3, patience=9, learning_rate=5e-3)


@pytest.mark.parametrize(("second_hop", "active", "with_pivot"), [(0, 3, False), (2, 2, True), (9, 9, True)])
def test_members_and_edges_are_those_of_a_plain_search(second_hop: int, active: int, with_pivot: bool) -> None:
    neighbors, similarities = make_graph(40, 8, 1)
    chosen = np.array([3, 7, 20, 39])
    wanted = (neighbors[chosen] >= 0) & (similarities[chosen] > 0.2)
    batch = pivot_batch(neighbors, chosen, wanted, second_hop=second_hop, active=active, with_pivot=with_pivot)
    scored = iter(zip(batch.scored.tolist(), batch.scored_rows.tolist(), batch.scored_ranks.tolist(), strict=True))
    for place, pivot in enumerate(chosen):
        firsts = neighbors[pivot][wanted[place]]
        members = set(firsts.tolist()) | ({int(pivot)} if with_pivot else set())
        for first in firsts:
            members |= {int(other) for other in neighbors[first, :second_hop] if other >= 0 and other != pivot}
        own = np.flatnonzero(batch.owners_M == place)
        assert batch.members_M[own].tolist() == sorted(members)
        listed = {(a, int(b)) for a in members for b in neighbors[a, :active] if b in members}
        expected = listed | {(b, a) for a, b in listed}
        found = {
            (int(batch.members_M[row]), int(batch.members_M[other]))
            for row in own
            for other in batch.indices[batch.indptr[row] : batch.indptr[row + 1]]
        }
        assert found == expected
        for rank in np.flatnonzero(wanted[place]):
            at, row, its_rank = next(scored)
            assert (batch.members_M[at], row, its_rank) == (neighbors[pivot, rank], place, rank)
    assert next(scored, None) is None


def test_means_and_their_gradient_are_those_of_the_matrix() -> None:
    neighbors, _ = make_graph(30, 6, 2)
    batch = pivot_batch(neighbors, np.arange(3), neighbors[:3] >= 0, second_hop=3, active=4, with_pivot=True)
    size = len(batch.members_M)
    dense = torch.zeros(size, size, dtype=torch.float32)
    for row in range(size):
        dense[row, batch.indices[batch.indptr[row] : batch.indptr[row + 1]].astype(np.int64)] = 1
    dense /= dense.sum(dim=1, keepdim=True).clamp(min=1)
    rows, weights = torch.randn(size, 5), torch.randn(size, 5)
    one, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    (MeanNeighbors.apply(one, batch.indptr, batch.indices) * weights).sum().backward()
    ((dense @ other) * weights).sum().backward()
    assert one.grad is not None
    assert other.grad is not None
    assert torch.allclose(one.grad, other.grad, atol=1e-5)


def batches(floor: float = -1.0) -> PivotData:
    graph = toy_graph()

    def batch_of(chosen: Array) -> PivotBatch:
        wanted = (graph.neighbors_NK[chosen] >= 0) & (graph.similarities_NK[chosen] >= floor)
        return pivot_batch(graph.neighbors_NK, chosen, wanted, second_hop=3, active=4, with_pivot=True)

    usable = np.ones(len(graph.neighbors_NK), np.bool_)
    return PivotData(graph.features_ND, graph.neighbors_NK, graph.identities_N, usable, batch_of)


def fit(checkpoint: Memory | None = None, config: TrainSettings = CONFIG) -> tuple[Any, Any]:
    return train_pivots(
        batches(), model=NETWORK, config=config, identity_balance=0.5, seed=0,
        checkpoint=checkpoint,
    )  # fmt: skip


def test_it_learns() -> None:
    _, history = fit(config=CONFIG.model_copy(update={"max_steps": 90, "evaluate_every": 15}))
    assert max(entry.held_out_auc for entry in history) > 0.65  # few identities, raw coordinates


def test_resumed_training_gives_the_same_bits() -> None:
    whole, history = fit()
    checkpoint = Memory(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint)
    checkpoint.left = 99
    resumed, again = fit(checkpoint)
    assert again == history
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_no_score_hangs_on_the_other_pivots_of_a_batch() -> None:
    data, network = batches(), build_network(24, NETWORK, 0).eval()
    together = data.batch_of(np.arange(10))
    scores = score_pivots(network, data.features_ND, np.arange(10), together)
    for pivot in range(10):
        alone = score_pivots(network, data.features_ND, np.array([pivot]), data.batch_of(np.array([pivot])))
        assert np.allclose(scores[together.scored_rows == pivot], alone, atol=1e-5)


def test_no_pair_with_a_held_out_row_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Array] = []
    give = pivots.PivotNetwork.forward

    def watch(self: Any, relative: Any, batch: PivotBatch) -> Any:
        if self.training:
            seen.extend([batch.members_M[batch.scored], batch.owners_M[batch.scored]])
        return give(self, relative, batch)

    monkeypatch.setattr(pivots.PivotNetwork, "forward", watch)
    fit()
    graph = toy_graph()
    held_out = pivots.hold_out(graph.identities_N, CONFIG.holdout, 0)
    used = np.unique(np.concatenate(seen[::2]))
    assert len(used) > 50
    assert not held_out[used].any()
    assert (graph.identities_N[used] >= 0).all()
