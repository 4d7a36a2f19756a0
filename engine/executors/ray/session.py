"""Reaching Ray: the cluster that is there, or an embedded one of this machine."""

from __future__ import annotations

import logging
import os

# Read when ray is imported: send no usage reports; leave CUDA_VISIBLE_DEVICES alone for actors without a GPU.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from engine.errors import TaskFailed

# Calls and records are small, and almost all data goes through storage: the object store stays small, and what
# companions exchange beyond it Ray spills to disk.
OBJECT_STORE_BYTES = 256 << 20
START_TIMEOUT_S = 300.0  # of an actor


def connect(num_cpus: int, num_gpus: int) -> bool:
    """Use the session of this process, or the cluster ``RAY_ADDRESS`` names (a job's own), else start one here.

    Returns whether one was started, and so has to be shut down by the caller. Raises ``TaskFailed``.
    """
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            start_embedded(num_cpus, num_gpus)
    except Exception as error:  # Ray raises the bare class for a part that did not come up in time
        ray.shutdown()
        what = f"could not be reached at RAY_ADDRESS={address}" if address else "did not start"
        raise TaskFailed(
            f"Ray {what}: {error}; what was committed is kept: run the same command again, or use --executor local"
        ) from error
    return not address


def start_embedded(num_cpus: int, num_gpus: int = 0) -> None:
    """Start Ray for this process alone: no dashboard, a small object store.

    It ends with ``ray.shutdown()`` or with the process. Ray's ports listen on all interfaces, guarded by its own token.
    """
    ray.init(
        address="local",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
