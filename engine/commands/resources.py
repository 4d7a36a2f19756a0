"""Where a run works, and with how much: on this machine, or on the hosts of a compute cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, field_validator

from engine.commands.configuration import read_config, word_errors
from engine.errors import ConfigError
from engine.executors.protocol import ray_address
from engine.process.memory import free_bytes
from engine.sections import Section
from engine.tiles import usable_cores
from engine.units import parse_bytes

MEMORY_SHARE = 0.7
CLUSTER_WORKERS = 64  # The plan cuts tasks for so many workers if the compute cluster decides their number.
CLUSTER_THREADS = 2


class Resources(Section):
    """What cannot change a result: where a run works, and with how much."""

    executor: Literal["local", "ray"] = Field("local", description="local: in this process; ray: on Ray actors")
    workers: int = Field(
        0,
        ge=0,
        description="ray: actors, which train star_fc together; 0 = as many as the cluster holds, without one 1 per "
        "two cores",
    )
    threads: int = Field(
        0, ge=0, description="threads of each worker; 0 = all cores shared among the workers, on a cluster 2"
    )
    memory_bytes: int = Field(
        0,
        ge=0,
        description="memory budget of this machine, on a cluster of each worker, as a number or 8GB; 0 = 70 % "
        "of what is free, on a cluster of its share of a machine like this one",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N, for training and scoring")
    gpus: float = Field(0, ge=0, description="ray: GPUs of each worker; 0 = with device cuda one or a fair share")
    custom_resources: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="ray: a cluster's own resources that a worker asks for"
    )
    block_rows: int = Field(0, ge=0, description="rows per task; 0 = chosen by the plan from memory and time")

    @field_validator("memory_bytes", mode="before")
    @classmethod
    def _parse_memory(cls, value: Any) -> Any:
        return parse_bytes(value, "memory_bytes") if isinstance(value, str) else value


def load_resources(config: str | Path | None = None, **given: Any) -> Resources:
    """Build resources from the section ``resources`` of a YAML file, then from values that are not ``None``.

    Raises ``ConfigError`` naming the unknown or malformed one.
    """
    tree = read_config(config).get("resources")
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{config}: resources: expected a mapping, got {type(tree).__name__}")
    try:
        return Resources.model_validate(tree | {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(word_errors(error, Resources)) from None


def on_cluster(resources: Resources) -> bool:
    """Tell whether tasks run on a compute cluster that Ray already runs on, and not on this machine."""
    return resources.executor == "ray" and bool(ray_address())


def count_workers(resources: Resources) -> int:
    """Count the workers that run tasks at the same time.

    On a compute cluster their number may change during the run; the plan then cuts tasks for ``CLUSTER_WORKERS``.
    """
    if resources.executor == "local":
        return 1
    return resources.workers or (CLUSTER_WORKERS if on_cluster(resources) else max(1, usable_cores() // 2))


def count_threads(resources: Resources) -> int:
    """Count the threads of each worker."""
    if resources.threads:
        return resources.threads
    return CLUSTER_THREADS if on_cluster(resources) else max(1, usable_cores() // count_workers(resources))


def memory_budget(resources: Resources) -> int:
    """Bytes that all workers of this machine may use together; on a compute cluster, bytes of each worker.

    The default of a compute cluster's worker is its threads' share of this machine: its hosts are taken to be like it.
    """
    share = min(1.0, count_threads(resources) / usable_cores()) if on_cluster(resources) else 1.0
    return resources.memory_bytes or int(MEMORY_SHARE * free_bytes() * share)


def choose_device(resources: Resources) -> str:
    """Choose the device of training and scoring: ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` is the first GPU that torch sees here. The GPUs of a compute cluster are on its hosts: there ``auto`` is a
    GPU if workers ask for some. Raises ``ConfigError`` for a GPU that this machine should have and has not.
    """
    asked = resources.device
    if on_cluster(resources) and ":" not in asked:
        return asked if asked != "auto" else "cuda" if resources.gpus else "cpu"
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {asked}: torch sees no GPU here; use --device cpu, or install a CUDA build of torch"
        )
    if asked != "cpu" and not asked.startswith("cuda"):
        raise ConfigError(f"--device {asked}: expected auto, cpu, cuda or cuda:N")
    return asked
