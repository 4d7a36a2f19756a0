"""The map equation at precision biases: a higher bias never joins what a lower one keeps apart.

Modules at a bias are not found anew, because other weights can lead the search to other modules. From those at 0 on, a
bias is raised in steps of 1, and each step splits the modules of the step before; it is lowered in steps of 1, and each
step joins whole modules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from math import ceil, copysign
from typing import Any

import numpy as np

from engine.clustering.map_equation import WalkModules, find_modules, join_modules
from engine.storage.companions import Companions

Array = np.ndarray[Any, Any]
Inside = Array | None  # the module of each vertex, between which no edge counts


class BiasedModules:
    """Modules of one graph at any bias; what was found for a step is kept.

    ``ranges_at(bias, inside_N)`` holds the graph of the edges that count at a bias in ``ModuleRange`` companions. Of
    two biases that are whole numbers the higher one's modules lie inside those of the lower. Memory and errors as
    ``map_equation``, and 4 bytes a vertex and step.
    """

    def __init__(
        self, ranges_at: Callable[[float, Inside], AbstractContextManager[Companions]], *, seed: int = 0
    ) -> None:
        self._ranges_at, self._seed = ranges_at, seed
        self._found: dict[float, WalkModules] = {}

    def at(self, bias: float) -> WalkModules:
        """Return the modules at a bias."""
        if bias not in self._found:
            self._found[bias] = self._search(bias)
        return self._found[bias]

    def _search(self, bias: float) -> WalkModules:
        before_N = self.at(copysign(ceil(abs(bias)) - 1, bias) + 0.0).roots_N if bias else None
        with self._ranges_at(bias, before_N if bias > 0 else None) as ranges:
            if before_N is None or bias > 0:
                return find_modules(ranges, self._seed)
            return join_modules(ranges, before_N, self._seed)
