"""The labelled data sets of the benchmarks: real ones, and stand-ins made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.commands.standin import PARTS, synthesize

STANDINS = {"standin_500": 500, "standin_2000": 2_000, "part1": PARTS["part1"]}  # identities of either split
SETS = ("historical_figures", "pooled_faces", "pricerunner", *STANDINS)

Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]


def read_set(data: Path, name: str) -> Labelled:
    """Features (N, D), labels (N,) and split (N,): 0 to train on, 1 to test on, no identity in both.

    ``pooled_faces``: the two face sets without the identities they share. A stand-in's split is made of its seed.
    """
    if name in STANDINS:
        parts = [_make(STANDINS[name], seed) for seed in (0, 1)]
        labels = np.concatenate([parts[0][1], parts[1][1] + parts[0][1].max() + 1])
        return np.concatenate([part[0] for part in parts]), labels, np.repeat([0, 1], [len(part[1]) for part in parts])
    if name != "pooled_faces":
        return tuple(np.load(data / name / f"{part}.npy") for part in ("features", "labels", "split"))  # type: ignore[return-value]
    lfw = read_set(data, "lfw_faces")
    shared = np.loadtxt(data / "lfw_faces/overlap.txt", dtype=np.int64, ndmin=1)
    kept = ~np.isin(lfw[1], shared)
    first = tuple(part[kept] for part in lfw)
    second = read_set(data, "vggface69_faces")
    labels = np.concatenate([first[1], second[1] + first[1].max() + 1])
    return np.concatenate([first[0], second[0]]), labels, np.concatenate([first[2], second[2]])


def _make(identities: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(synthesize(identities, seed).blocks(4096))
    return np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks])
