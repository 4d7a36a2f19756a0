"""A report of this machine, and of the resources that a run on it would use."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from engine.commands.machine import hardware, versions
from engine.commands.resources import MEMORY_SHARE
from engine.errors import DependencyMissing
from engine.graph.faiss_kmeans import describe_faiss
from engine.installation import install_hint
from engine.process.memory import free_bytes, tree_bytes
from engine.storage.mappings import map_limit, maps_needed, raise_limit
from engine.storage.paths import os_reason
from engine.tiles import usable_cores
from engine.units import CHUNK_ROWS, MOST_FILES, human_bytes


def diagnose() -> dict[str, Any]:
    """Report versions, cores, memory, GPUs, faiss build, Ray and disk, and the defaults that follow from them."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    ray = "installed" if find_spec("ray") else f"not installed ({install_hint('ray')})"
    found: dict[str, Any] = {**versions(), **hardware()}
    found["threads usable"] = usable_cores()
    found["memory free"] = human_bytes(free_bytes())
    found["memory of this process"] = human_bytes(tree_bytes())
    found["GPUs"] = ", ".join(gpus) or "none seen by torch"
    found["torch instructions"] = torch.backends.cpu.get_cpu_capability()
    try:
        found["faiss build"], found["faiss GPUs"] = describe_faiss()
    except DependencyMissing:
        found["faiss build"] = f"not installed ({install_hint('cpu')})"
    found["ray"] = f"{found.get('ray', '')} {ray}".strip()
    found["disk free here"] = _free_disk_here()
    memory = human_bytes(MEMORY_SHARE * free_bytes())
    found["mapped files"] = _mapped_files()
    found["a run would use"] = (
        f"device {'cuda' if gpus else 'cpu'}, {usable_cores()} threads, --memory {memory}, the local executor"
    )
    return found


def _mapped_files() -> str:
    """Word whether a process may map the files of arrays of any size."""
    limit, needed = map_limit(), maps_needed(MOST_FILES * CHUNK_ROWS)
    if limit >= needed:
        return f"{limit:,} a process (vm.max_map_count), enough for any number of rows"
    return f"{limit:,} a process, and {needed:,} are needed from 17 million rows on: {raise_limit(needed)}"


def _free_disk_here() -> str:
    try:
        return human_bytes(shutil.disk_usage(Path.cwd()).free)
    except OSError as error:  # the folder was deleted, or may not be read
        return f"unknown: the current folder: {os_reason(error)}"
