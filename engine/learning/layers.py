"""What several networks share: weights drawn from a seed, the graph convolution, and rows in padded tiles.

Legend: n vertices of a batch, D feature dimension, H width of the convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Array = np.ndarray[Any, Any]

EMBED_ROWS = 1_024


@contextmanager
def drawn_weights(seed: int) -> Iterator[None]:
    """Draw the weights of networks built in the block from ``seed`` alone; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class GraphConvolution(nn.Module):
    """Compute ReLU(W [x ; Âx]) (STAR-FC, section 3.1)."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dimension, hidden)

    def forward(self, features_nD: Tensor, aggregated_nD: Tensor) -> Tensor:
        """Return (n, H) from the unit vectors and their aggregated rows Âx."""
        return functional.relu(self.linear(torch.cat([features_nD, aggregated_nD], dim=1)))


def padded_tile(rows: Array, size: int, device: str) -> Tensor:
    """Rows as float32 on ``device``, with rows of zeros up to ``size``."""
    tile = np.zeros((size, rows.shape[1]), np.float32)
    tile[: len(rows)] = rows
    return torch.from_numpy(tile).to(device)
