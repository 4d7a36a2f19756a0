"""Train a structural scorer for data without labels, on many variants of several labelled data sets.

    python benchmarks/transferable_model.py --data ../shared/data --out FOLDER [--leave-out pricerunner]

A scorer that has seen one data set knows its sizes of clusters, its noise and its share of true edges, and expects them
anywhere. So each set is offered as many: identities cut down to few rows, rows left out, noise added, vectors projected
to fewer dimensions. The final score learns from priors of the other half of the identities, in all variants: priors of
trees that saw no variant of the same data set are so far off, each set in its own way, that it learns to tell the sets
apart and fails on one unlike them (measured: AUC 0.56 on faces where the prior has 0.95). With ``--leave-out`` a set's
variants are not used, for measuring what the model does on data of a kind it never saw: so far less than cosine does,
which is why no such model comes with the package.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import read_set
from safetensors.numpy import save

from engine.config import TreesConfig
from engine.graph.adjacency import EdgeList, undirected_edges
from engine.graph.knn import exact_neighbors
from engine.graph.overlaps import AVERAGED, neighborhood_averages, vertex_profiles
from engine.learning import structural
from engine.learning.trees import Trees
from engine.methods.structural import write_transferable
from engine.tiles import usable_cores

K = 80
MAX_ROWS = 6_000
EDGES_PER_VARIANT = 8_000
SETS = ("historical_figures", "pricerunner", "pooled_faces", "standin_500")
CONFIG = TreesConfig(num_trees=120, levels=5, rate=0.12, min_weight=20)

Vectors = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Variant:
    """One labelled graph to learn from; ``drawn``: edges within half 0, half 1 and either (-1), and which are true."""

    name: str
    graph: structural.Neighborhoods
    halves: np.ndarray
    drawn: dict[int, tuple[EdgeList, np.ndarray]]


def read_vectors(data: Path, name: str) -> Vectors:
    """Rows of the train identities of a set: vectors float32 and identities."""
    features, labels, split = read_set(data, name)
    return features[split == 0].astype(np.float32), labels[split == 0]


def _cap(rng: np.random.Generator, identities: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` rows of each identity, at random: their places, in order."""
    shuffled = rng.permutation(len(identities))
    order = shuffled[np.argsort(identities[shuffled], kind="stable")]
    sizes = np.unique(identities, return_counts=True)[1]
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[within < most])


def make_variants(vectors: np.ndarray, identities: np.ndarray, seed: int) -> Iterator[tuple[str, Vectors]]:
    """Offer one data set as several, each of about ``MAX_ROWS`` rows of whole identities (as far as kept)."""
    rng = np.random.default_rng(seed)
    count, dim = vectors.shape

    def noisy() -> Vectors:
        kept = _cap(rng, identities, 30)
        noise = rng.normal(size=(len(kept), dim)) * rng.uniform(0.3, 0.5) / dim**0.5
        return vectors[kept] + noise.astype(np.float32), identities[kept]

    def projected() -> Vectors:
        kept = _cap(rng, identities, int(rng.integers(6, 20)))
        return vectors[kept] @ rng.normal(size=(dim, int(rng.integers(64, 110)))).astype(np.float32), identities[kept]

    def kept(rows: np.ndarray) -> Vectors:
        return vectors[rows], identities[rows]

    makers: dict[str, Callable[[], Vectors]] = {
        "whole": lambda: (vectors, identities),
        "few": lambda: kept(_cap(rng, identities, int(rng.integers(2, 6)))),
        "some": lambda: kept(_cap(rng, identities, 12)),
        "thinned": lambda: kept(np.flatnonzero(rng.random(count) < rng.uniform(0.3, 0.6))),
        "noisy": noisy,
        "projected": projected,
    }
    for name, make in makers.items():
        rows, owners = make()
        known, sizes = np.unique(owners, return_counts=True)
        order = rng.permutation(len(known))
        enough = max(20, int(np.searchsorted(np.cumsum(sizes[order]), MAX_ROWS)))
        chosen = np.isin(owners, known[order[:enough]])
        yield name, (rows[chosen], owners[chosen])


def build_variant(name: str, vectors: np.ndarray, identities: np.ndarray, seed: int, threads: int) -> Variant:
    """Build the exact KNN graph and draw edges, fewer between large identities."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    features = unit.astype(np.float16)
    neighbors, similarities = exact_neighbors(features, 0, len(features), K, None, threads)
    averages = neighborhood_averages(neighbors, features, 0, threads=threads)
    graph = structural.Neighborhoods(
        neighbors, similarities, vertex_profiles(neighbors, similarities, threads=threads),
        tuple(np.ascontiguousarray(averages[:, place]) for place in range(len(AVERAGED))),
    )  # fmt: skip
    config = CONFIG.model_copy(update={"max_edges": EDGES_PER_VARIANT})
    blocks = [undirected_edges(neighbors, similarities, 0, len(features), threads=threads)]
    halves = (identities.astype(np.int64) * 2_654_435_761 >> 7 & 1).astype(np.int8)  # one identity, one half everywhere
    owners = identities.astype(np.int64)
    drawn = {half: structural.draw_edges(blocks, owners, halves, half, config, seed)[:2] for half in (0, 1, -1)}
    return Variant(name, graph, halves, drawn)


def fit(inputs: list[np.ndarray], same: list[np.ndarray], seed: int, threads: int) -> Trees:
    """Fit trees to edges of several variants together."""
    labels = np.concatenate(same)
    nothing_held = np.zeros(len(labels), bool)
    return structural.fit_scorer(np.concatenate(inputs), labels, nothing_held, CONFIG, seed=seed, threads=threads)


def train(variants: list[Variant], threads: int) -> structural.StructuralScorer:
    """Fit a prior to each half of the identities, and the final score to priors from the other half."""
    priors = []
    for half in (0, 1):
        drawn = [(variant.graph, *variant.drawn[half]) for variant in variants]
        inputs = [structural.edge_inputs(graph, edges, threads=threads) for graph, edges, _ in drawn]
        priors.append(fit(inputs, [same for *_, same in drawn], half, threads))
    inputs, both = [], (priors[0], priors[1])
    for variant in variants:
        graph, count = variant.graph, len(variant.halves)
        priors_NK = structural.prior_rows(both, graph, 0, count, variant.halves, threads=threads)
        inputs.append(structural.edge_inputs(graph, variant.drawn[-1][0], priors_NK, threads=threads))
    return structural.StructuralScorer(both, fit(inputs, [variant.drawn[-1][1] for variant in variants], 2, threads))


def main() -> None:
    """Train and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--leave-out", nargs="*", default=[], choices=SETS, help="sets not to learn from")
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    arguments = parser.parse_args()
    threads, started = usable_cores(), time.perf_counter()
    variants: list[Variant] = []
    learned = [name for name in SETS if name not in arguments.leave_out]
    for number, name in enumerate(learned):
        vectors = read_vectors(arguments.data, name)
        for kind, (rows, owners) in make_variants(*vectors, seed=number):
            found = build_variant(f"{name} {kind}", rows, owners, number, threads)
            variants.append(found)
            share = 100 * found.drawn[-1][1].mean()
            print(f"{found.name:30} {len(rows):6,} rows, {share:5.1f} % of edges true", flush=True)
    scorer = train(variants, threads)
    write_transferable(arguments.out, save(structural.to_tensors(scorer)), learned)
    print(f"{arguments.out}: trained in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
