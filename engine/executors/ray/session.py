"""Connect to Ray: to an existing compute cluster, or to an embedded one on this machine."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray reads these when it is imported. It sends no usage reports, and keeps CUDA_VISIBLE_DEVICES for actors without GPU.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from engine.errors import EngineError, TaskFailed
from engine.executors.protocol import ray_address
from engine.executors.ray.authentication import check_token, require_token
from engine.process.import_path import needed_path

# The object store is small, because calls and records are small and almost all data goes through storage. If companions
# exchange more than it holds, Ray spills it to disk.
OBJECT_STORE_BYTES = 256 << 20
REACH_TIMEOUT_S = 60.0
START_TIMEOUT_S = 600.0  # of an actor, because a new host of a growing compute cluster needs minutes


def connect(num_cpus: int, num_gpus: int) -> bool:
    """Use the session of this process, else the compute cluster of ``RAY_ADDRESS`` (as in a job), else start Ray here.

    Returns whether Ray was started here; the caller then has to shut it down. Raises ``TaskFailed``, and
    ``ConfigError`` for a compute cluster without authentication.
    """
    if ray.is_initialized():
        return False
    address = ray_address()
    try:
        if address:
            check_token(address)
            _check_reachable(address)
            ray.init(log_to_driver=False, logging_level=logging.ERROR, job_config=_Job())
        else:
            start_embedded(num_cpus, num_gpus)
    except EngineError:
        raise
    except Exception as error:  # Ray raises a bare Exception if one of its parts did not start in time
        ray.shutdown()
        what = "did not start"
        if address:
            what = f"could not be reached at RAY_ADDRESS={address}, or has another token"
        raise TaskFailed(
            f"Ray {what}: {error}; what was committed is kept: run the same command again, or use --executor local"
        ) from error
    return not address


class _Job(JobConfig):  # type: ignore[misc]
    """A job whose workers do not import from the driver's current folder, which is Ray's default."""

    def _serialize(self) -> Any:
        path = self._py_driver_sys_path
        if path and path[-1] == os.path.abspath(os.path.curdir):
            path[-1:] = needed_path()
        return super()._serialize()


def _check_reachable(address: str) -> None:
    """Raise ``OSError`` if nothing listens at ``host:port`` for ``REACH_TIMEOUT_S``; Ray would try for 15 minutes."""
    host, _, port = address.rpartition(":")
    limit = time.monotonic() + REACH_TIMEOUT_S
    while host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError:
            if time.monotonic() > limit:
                raise
            time.sleep(1)


def start_embedded(num_cpus: int, num_gpus: int = 0) -> None:
    """Start Ray for this process alone: on loopback, with a token, without a dashboard, with a small object store.

    Ray ends with ``ray.shutdown()`` or with the process.
    """
    require_token()
    with on_loopback():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            job_config=_Job(),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let processes that Ray starts inside the block open ports on loopback only.

    Ray then behaves as on systems where it supports no compute clusters. It would replace an address of 127.0.0.1.
    """
    held = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = held
