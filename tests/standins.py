"""Stand-in vectors for tests."""

from __future__ import annotations

import numpy as np

from engine.commands.standin import synthesize


def standin(identities: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, 256) and identities (N,) of a stand-in."""
    blocks = list(synthesize(identities, seed).blocks(4096))
    return np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks])
