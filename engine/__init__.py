"""Asterism: cluster embeddings by identity at scale.

>>> from engine import cluster, evaluate, train
>>> result = cluster(vectors)  # doctest: +SKIP
>>> result.labels  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.installation import let_numba_cache
from engine.version import __version__

if TYPE_CHECKING:
    from engine.api import ClusterResult, cluster, evaluate, fetch, train
    from engine.api import open_collection as open  # noqa: F401
    from engine.clustering.propagation import graph_propagation
    from engine.comparison.compare import compare

__all__ = ["ClusterResult", "__version__", "cluster", "compare", "evaluate", "fetch", "graph_propagation", "train"]

if sys.platform == "win32":
    raise ImportError("Asterism needs memory maps and file locks of Linux or macOS; on Windows it runs in WSL 2")
let_numba_cache()

# Loaded on first use, so that workers and `import engine.errors` do not load torch.
_HOMES = dict.fromkeys(("ClusterResult", "cluster", "evaluate", "fetch", "train"), "engine.api")
_HOMES["open"] = "engine.api"  # not in __all__, where it would hide Python's own
_HOMES["compare"] = "engine.comparison.compare"
_HOMES["graph_propagation"] = "engine.clustering.propagation"
_RENAMED = {"open": "open_collection"}


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOMES, "__doc__", "__file__", "__name__", "__path__"})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), _RENAMED.get(name, name))
