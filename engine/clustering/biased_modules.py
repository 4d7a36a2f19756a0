"""The map equation at precision biases: a higher bias never joins what a lower one keeps apart.

Modules at a bias are not found anew, because other weights can lead the search to other modules. From those at 0 on, a
bias is raised in steps of 1, and each step splits the modules of the step before; it is lowered in steps of 1, and each
step joins whole modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import ceil, copysign
from typing import Any

import numpy as np

from engine.clustering.csr import build_weighted_adjacency
from engine.clustering.map_equation import WalkModules, join_modules, map_equation

Array = np.ndarray[Any, Any]
Block = tuple[Array, Array, Array]


class BiasedModules:
    """Modules of one graph at any bias; what was found for a step is kept.

    ``blocks_at(bias)`` gives blocks of (sources, targets, weights), the same each time, of the edges that count at a
    bias. Of two biases that are whole numbers the higher one's modules lie inside those of the lower. Memory and errors
    as ``map_equation``, and 4 bytes a vertex and step.
    """

    def __init__(
        self, num_vertices: int, blocks_at: Callable[[float], Iterable[Block]], *, threads: int = 1, seed: int = 0
    ) -> None:
        self._num_vertices, self._blocks_at = num_vertices, blocks_at
        self._threads, self._seed = threads, seed
        self._found: dict[float, tuple[WalkModules, int]] = {}

    def at(self, bias: float) -> tuple[WalkModules, int]:
        """Modules at a bias, and the number of edges that they were last searched in."""
        if bias not in self._found:
            self._found[bias] = self._search(bias)
        return self._found[bias]

    def _search(self, bias: float) -> tuple[WalkModules, int]:
        before_N = self.at(copysign(ceil(abs(bias)) - 1, bias) + 0.0)[0].roots_N if bias else None

        def blocks() -> Iterator[Block]:
            for sources, targets, weights in self._blocks_at(bias):
                if before_N is not None and bias > 0:
                    inside = before_N[sources] == before_N[targets]
                    sources, targets, weights = sources[inside], targets[inside], weights[inside]
                yield sources, targets, weights

        graph = build_weighted_adjacency(self._num_vertices, blocks, self._threads)
        if before_N is None or bias > 0:
            found = map_equation(*graph, threads=self._threads, seed=self._seed)
        else:
            found = join_modules(*graph, before_N, threads=self._threads, seed=self._seed)
        return found, len(graph[1]) // 2
