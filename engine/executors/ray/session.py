"""Reaching Ray: the cluster that is there, or an embedded one of this machine."""

from __future__ import annotations

import logging
import os

# Read when ray is imported: send no usage reports; leave CUDA_VISIBLE_DEVICES alone for actors without a GPU.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

# Calls and records are small and all data goes through storage, so the object store stays small.
OBJECT_STORE_BYTES = 256 << 20


def connect(num_cpus: int, num_gpus: int) -> bool:
    """Use the session of this process, or the cluster ``RAY_ADDRESS`` names (a job's own), else start one here.

    Returns whether one was started, and so has to be shut down by the caller.
    """
    if ray.is_initialized():
        return False
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return False
    start_embedded(num_cpus, num_gpus)
    return True


def start_embedded(num_cpus: int, num_gpus: int = 0) -> None:
    """Start Ray for this process alone: no dashboard, loopback address, a small object store.

    It ends with ``ray.shutdown()`` or with the process.
    """
    ray.init(
        address="local",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
