"""Inputs from a first score, against a plain reference."""

from __future__ import annotations

import numpy as np

from engine.graph import support
from engine.graph.adjacency import undirected_edges
from tests.support.toy_graphs import make_graph


def reference(neighbors, priors, source, target):  # type: ignore[no-untyped-def]
    ends = []
    for vertex in (source, target):
        listed = [int(v) for v in neighbors[vertex] if v >= 0]
        ends.append(dict(zip(listed, priors[vertex, : len(listed)] / support.PRIOR_ONE, strict=True)))
    first, second = ends
    prior = max(first.get(target, 0), second.get(source, 0))
    row = [np.log(np.clip(prior, 1e-5, 1 - 1e-5) / (1 - np.clip(prior, 1e-5, 1 - 1e-5)))]
    pairs = [[sum(end.values()) for end in ends]]
    pairs.append([prior / max(max(end.values(), default=0), prior, 1e-9) for end in ends])
    pairs.append([sum(value > prior for value in end.values()) for end in ends])
    full = [{source: 1.0, **first}, {target: 1.0, **second}]
    both = full[0].keys() & full[1].keys()
    pairs.append([
        sum(end[v] for v in both if v in end) / max(sum(end.values()), 1e-9) for end in ends
    ])  # fmt: skip
    logs = [np.log1p, lambda x: x, np.log1p, lambda x: x]
    for pair, scaled in zip(pairs, logs, strict=True):
        row += [scaled(min(pair)), scaled(max(pair))]
    product = sum(full[0][v] * full[1][v] for v in both)
    norms = [sum(value * value for value in end.values()) for end in full]
    common = both - {source, target}
    row += [
        product / np.sqrt(norms[0] * norms[1]),
        max((min(first[v], second[v]) for v in common), default=0),
        sum(abs(first[v] - second[v]) for v in common) / max(sum(max(first[v], second[v]) for v in common), 1e-9),
        np.log1p(product),
    ]
    return row


def test_support_features_equal_reference_whichever_end_comes_first() -> None:
    neighbors, similarities = make_graph(70, 30, seed=2)
    edges = undirected_edges(neighbors, similarities, 0, 70)
    drawn = np.random.default_rng(2).random((70, 70))
    priors = support.store_priors(((drawn + drawn.T) / 2)[np.arange(70)[:, None], neighbors])
    found, swapped = np.empty((2, len(edges.sources), support.NUM_SUPPORT), np.float32)
    support.fill_support(neighbors, priors, edges.sources, edges.targets, found)
    expected = [reference(neighbors, priors, *ends) for ends in zip(edges.sources, edges.targets, strict=True)]
    assert found.shape == (len(expected), support.NUM_SUPPORT) == (len(expected), len(support.SUPPORT_NAMES))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    order = np.random.default_rng(0).permutation(len(found))
    support.fill_support(neighbors, priors, edges.targets[order], edges.sources[order], swapped)
    assert np.array_equal(swapped, found[order])
