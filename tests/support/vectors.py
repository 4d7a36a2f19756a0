"""Small vectors for tests: blobs, and stand-ins of the public data sets."""

from __future__ import annotations

import numpy as np

from engine.commands.standin import synthesize


def make_blobs(num_rows: int, dim: int, *, rows_per_blob: int = 12, seed: int = 0) -> np.ndarray:
    """Vectors (N, D) float32 around random unit centres, rows of one blob scattered over the whole array."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((-(-num_rows // rows_per_blob), dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    blob_N = rng.permutation(num_rows) % len(centres)
    noise = rng.standard_normal((num_rows, dim)) * (0.5 / dim**0.5)
    return (centres[blob_N] + noise).astype(np.float32)


def standin(identities: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, 256) and identities (N,) of a stand-in."""
    blocks = list(synthesize(identities, seed).blocks(4096))
    return np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks])
