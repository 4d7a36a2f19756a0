"""Histograms of the values of edges inside clusters and of edges between clusters.

E edges, B bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

NUM_BINS = 50


class ValueHistogram:
    """Count values of edges that arrive in blocks in ``NUM_BINS`` equal bins from ``low`` to ``high``.

    A value outside this range counts in the first or the last bin.
    """

    def __init__(self, low: float, high: float) -> None:
        self._edges = np.linspace(low, max(high, low + 1e-3), NUM_BINS + 1)
        self._counts = np.zeros((2, NUM_BINS), dtype=np.int64)

    def add(self, values_E: NDArray[np.float32], inside_E: NDArray[np.bool_]) -> None:
        """Add a block of edges; ``inside_E``: both ends are in one cluster."""
        _count(values_E, inside_E, self._edges[0], NUM_BINS / (self._edges[-1] - self._edges[0]), self._counts)

    @property
    def counts(self) -> list[list[int]]:
        """Counts (2, B): edges between clusters, then edges inside them."""
        return self._counts.tolist()

    def merge(self, counts: list[list[int]]) -> None:
        """Add the ``counts`` of a histogram over the same range."""
        self._counts += np.array(counts, np.int64)

    def as_dict(self) -> dict[str, Any]:
        """``bin_edges`` (B + 1), and counts by bin: ``kept`` inside clusters, ``pruned`` between them."""
        pruned, kept = self._counts.tolist()
        return {"bin_edges": self._edges.tolist(), "kept": kept, "pruned": pruned}


@njit(nogil=True, cache=True)
def _count(values_E, inside_E, low, bins_per_unit, counts):  # type: ignore[no-untyped-def]
    for edge in range(len(values_E)):
        place = int((values_E[edge] - low) * bins_per_unit)
        counts[int(inside_E[edge]), min(max(place, 0), counts.shape[1] - 1)] += 1
