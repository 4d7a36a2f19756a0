"""How far the labels let any method come: ``python benchmarks/ceiling.py --data ../shared/data [--work FOLDER]``.

For each real set: F of a classifier that knows more than clustering may. Five times a fifth of split 1's rows take the
nearest identity's mean of the other rows, in the space that whitens their differences within identities (shrunk to a
third of a ball); a row whose identity has no other row is right for free.

``--work``: the folder that ``benchmarks/accuracy.py --work`` kept, with a ``structural`` run. Then also: the identity
whose split costs most pairs, F if its two largest parts were one, and their cosine among those of all pairs of clusters
of ten rows: between mean vectors, divided by the root of both clusters' mean cosines within.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from datasets import SETS, STANDINS, read_set
from recording import write_record

from engine import evaluate

FOLDS = 5
SHRINKAGE = 0.3
LEAST_ROWS = 10
FOUND = "seed-0/runs/structural.npy"


def classified(vectors_ND: np.ndarray, identities_N: np.ndarray) -> np.ndarray:
    """The identity that each row gets of the rows of the other folds: (N,)."""
    fold_N = np.random.default_rng(0).integers(0, FOLDS, len(identities_N))
    found_N = np.empty_like(identities_N)
    for fold in range(FOLDS):
        known, asked = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        counts = np.bincount(identities_N[known], minlength=identities_N.max() + 1)
        means = np.zeros((len(counts), vectors_ND.shape[1]))
        np.add.at(means, identities_N[known], vectors_ND[known])
        means /= np.maximum(counts, 1)[:, None]
        within = vectors_ND[known] - means[identities_N[known]]
        covariance = within.T @ within / len(within)
        covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        centres, rows = means @ (vectors / np.sqrt(values)), vectors_ND[asked] @ (vectors / np.sqrt(values))
        distances = (centres * centres).sum(1) - 2 * rows @ centres.T
        distances[:, counts == 0] = np.inf
        nearest, alone = distances.argmin(1), counts[identities_N[asked]] == 0
        found_N[asked] = np.where(alone, identities_N[asked], nearest)
    return found_N


def costliest_split(vectors_ND: np.ndarray, identities_N: np.ndarray, found_N: np.ndarray) -> dict[str, Any]:
    """The identity that loses most pairs, and where its two largest parts stand among all pairs of clusters."""
    parts = {each: np.unique(found_N[identities_N == each], return_counts=True) for each in np.unique(identities_N)}
    lost = {each: counts.sum() ** 2 - (counts**2).sum() for each, (_, counts) in parts.items()}
    worst = max(lost, key=lambda each: lost[each])
    clusters, counts = parts[worst]
    first, second = clusters[np.argsort(-counts)[:2]]
    merged_N = np.where(found_N == second, first, found_N)
    names, places_N, sizes = np.unique(found_N, return_inverse=True, return_counts=True)
    large = np.flatnonzero(sizes >= LEAST_ROWS)
    means = np.stack([vectors_ND[places_N == each].mean(0) for each in large])
    within = ((means * means).sum(1) * sizes[large] - 1) / (sizes[large] - 1)
    cosines = means @ means.T / np.sqrt(np.outer(within, within))
    owners = np.array([np.bincount(identities_N[places_N == each]).argmax() for each in large])
    a, b = np.triu_indices(len(large), 1)
    places = {name: place for place, name in enumerate(names[large])}
    own = cosines[places[first], places[second]]
    apart = np.sort(cosines[a, b][owners[a] != owners[b]])[::-1]
    return {
        "rows": int(counts.sum()), "largest_parts": np.sort(counts)[::-1][:2].tolist(), "cosine": round(float(own), 3),
        "pairs_of_different_identities_above": int((apart > own).sum()), "their_highest": apart[:3].round(3).tolist(),
        **{f"{name}_if_merged": round(value, 4) for name, value in evaluate(merged_N, identities_N).items()
           if name in ("pairwise_f", "bcubed_f")},
    }  # fmt: skip


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--work", type=Path, help="folder of benchmarks/accuracy.py --work")
    arguments = parser.parse_args()
    rows = []
    for name in (each for each in SETS if each not in STANDINS):
        features, labels, split = read_set(arguments.data, name)
        vectors_ND = features[split == 1].astype(np.float32)
        vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        identities_N = np.unique(labels[split == 1], return_inverse=True)[1]
        scores = evaluate(classified(vectors_ND, identities_N), identities_N)
        row = {"data": name, **{key: round(scores[key], 4) for key in ("pairwise_f", "bcubed_f")}}
        if arguments.work and (arguments.work / name / FOUND).exists():
            found_N = np.load(arguments.work / name / FOUND)
            row["costliest_split"] = costliest_split(vectors_ND, identities_N, found_N)
        print(row)
        rows.append(row)
    write_record("ceiling", {"folds": FOLDS, "shrinkage": SHRINKAGE, "least_rows": LEAST_ROWS}, rows)


if __name__ == "__main__":
    main()
