"""The default without labels where most rows, or all, are alone: noise, few identities among it, one row of each.

    python benchmarks/alone.py [--data ../shared/data]

``joined`` is the share of rows in clusters of two and more, ``together`` the share that should be.
Writes ``benchmarks/records/alone.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import read_set
from recording import write_record

from engine import api, evaluate

Rows = tuple[np.ndarray, np.ndarray]


def noise(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(rows, dim)))


def unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-9)).astype(np.float32)


def among(identities: int, size: int, spread: float, alone: int, dim: int) -> Rows:
    """Identities of a mean cosine of 1 / (1 + spread²), and ``alone`` rows of noise."""
    centres = np.repeat(noise(identities, dim, 1), size, axis=0)
    rows = unit(centres + spread / np.sqrt(dim) * np.random.default_rng(2).normal(size=centres.shape))
    labels = np.concatenate([np.repeat(np.arange(identities), size), identities + np.arange(alone)])
    return np.concatenate([rows, noise(alone, dim)]), labels


def some(features: np.ndarray, labels: np.ndarray, alone: int, identities: int, size: int) -> Rows:
    """One row of each of ``alone`` identities, up to ``size`` of each of ``identities`` others, drawn at random."""
    random = np.random.default_rng(0)
    drawn = random.permutation(np.unique(labels))[: alone + identities]
    rows = [
        random.permutation(np.flatnonzero(labels == each))[: 1 if place < alone else size]
        for place, each in enumerate(drawn)
    ]
    kept = np.sort(np.concatenate(rows))
    return unit(features[kept]), labels[kept]


def sets(data: Path | None) -> Iterator[tuple[str, Rows]]:
    for rows, dim in ((3_000, 8), (3_000, 64), (3_000, 256), (3_000, 512), (100_000, 128)):
        yield f"noise of {rows:,} rows, {dim} dimensions", (noise(rows, dim), np.arange(rows))
    for identities, size, spread, alone, dim in (
        (150, 2, 0.5, 2_700, 256), (300, 3, 0.8, 2_100, 128), (3, 40, 0.8, 2_880, 128), (1, 1_500, 0.8, 1_500, 256)
    ):  # fmt: skip
        what = f"{identities} identities of {size:,} rows among {alone:,} of noise, {dim} dimensions"
        yield what, among(identities, size, spread, alone, dim)
    features, labels, _ = read_set(Path(), "standin_2000")
    for alone, identities in ((2_000, 0), (1_900, 50), (1_700, 150), (1_000, 800)):
        yield (
            f"stand-in, {alone:,} identities of one row, {identities:,} of up to 5",
            some(features, labels, alone, identities, 5),
        )
    for name in ("historical_figures", "pooled_faces", "pricerunner") if data else ():
        features, labels, _ = read_set(data, name)  # type: ignore[arg-type]
        yield f"{name}, a row of each identity", some(features, labels, len(np.unique(labels)), 0, 1)
        if name == "pooled_faces":
            yield f"{name}, 3,500 identities of one row, 300 of up to 3", some(features, labels, 3_500, 300, 3)


def main() -> None:
    """Run the default on each set and record what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    results = []
    for name, (features, labels) in sets(parser.parse_args().data):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            found = api.cluster(features, workspace=Path(folder) / "run").labels
            seconds = time.perf_counter() - started
        sizes, true = np.bincount(found), np.unique(labels, return_counts=True)[1]
        scores = evaluate(found, labels)
        row = {
            "data": name, "rows": len(labels), "together": 1 - (true == 1).sum() / len(labels),
            "joined": 1 - (sizes == 1).sum() / len(labels), "largest": int(sizes.max()), "seconds": round(seconds, 1),
            **{key: scores[key] for key in ("pairwise_precision", "pairwise_recall", "bcubed_f")},
        }  # fmt: skip
        results.append(row)
        print(
            f"{name:75} joined {row['joined']:6.1%} of {row['together']:6.1%}  largest {row['largest']:6,}  "
            f"P {row['pairwise_precision']:.3f} R {row['pairwise_recall']:.3f} B {row['bcubed_f']:.3f}",
            flush=True,
        )
    write_record("alone", {}, results)


if __name__ == "__main__":
    main()
