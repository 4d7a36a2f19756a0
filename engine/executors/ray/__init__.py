"""Tasks on Ray actors: the only package that imports ray."""

from engine.errors import DependencyMissing
from engine.installation import install_hint

try:
    import ray  # noqa: F401
except ImportError as error:
    raise DependencyMissing(f"--executor ray needs Ray: {install_hint('ray')}, or use --executor local") from error

from engine.executors.ray.executor import RayExecutor
from engine.executors.ray.session import connect, start_embedded

__all__ = ["RayExecutor", "connect", "start_embedded"]
