"""Reaching Ray: the cluster that is there, or an embedded one of this machine."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Read when ray is imported: send no usage reports; leave CUDA_VISIBLE_DEVICES alone for actors without a GPU.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from engine.errors import EngineError, TaskFailed
from engine.executors.base import cluster_address
from engine.executors.ray.authentication import check_token, require_token
from engine.process.import_path import needed_path

# Calls and records are small, and almost all data goes through storage: the object store stays small, and what
# companions exchange beyond it Ray spills to disk.
OBJECT_STORE_BYTES = 256 << 20
REACH_TIMEOUT_S = 60.0
START_TIMEOUT_S = 600.0  # of an actor: new hosts of a cluster that grows need minutes


def connect(num_cpus: int, num_gpus: int) -> bool:
    """Use the session of this process, or the cluster ``RAY_ADDRESS`` names (a job's own), else start one here.

    Returns whether one was started, and so has to be shut down by the caller. Raises ``TaskFailed``, and
    ``ConfigError`` for a cluster without authentication.
    """
    if ray.is_initialized():
        return False
    address = cluster_address()
    try:
        if address:
            check_token(address)
            _check_reachable(address)
            ray.init(log_to_driver=False, logging_level=logging.ERROR, job_config=_Job())
        else:
            start_embedded(num_cpus, num_gpus)
    except EngineError:
        raise
    except Exception as error:  # Ray raises the bare class for a part that did not come up in time
        ray.shutdown()
        what = "did not start"
        if address:
            what = f"could not be reached at RAY_ADDRESS={address}, or has another token"
        raise TaskFailed(
            f"Ray {what}: {error}; what was committed is kept: run the same command again, or use --executor local"
        ) from error
    return not address


class _Job(JobConfig):  # type: ignore[misc]
    """A job whose workers do not import from the folder that the driver was started in, as Ray would have them."""

    def _serialize(self) -> Any:
        path = self._py_driver_sys_path
        if path and path[-1] == os.path.abspath(os.path.curdir):
            path[-1:] = needed_path()
        return super()._serialize()


def _check_reachable(address: str) -> None:
    """Find out in bounded time that nothing listens at ``host:port``; Ray would try for a quarter of an hour."""
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
    """Start Ray for this process alone: on loopback, with a token of its own, no dashboard, a small object store.

    It ends with ``ray.shutdown()`` or with the process.
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
    """Let what Ray starts meanwhile open its ports on loopback and on no other interface.

    Ray does so by itself on systems where it supports no clusters; an address of 127.0.0.1 it replaces by another.
    """
    held = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = held
