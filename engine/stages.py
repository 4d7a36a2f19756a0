"""Stages and tasks: the pieces of a run, as its plan and its folder know them.

A ``Stage`` is a pure function of committed inputs, parameters and a seed, cut into tasks by ranges of rows. Its
fingerprint covers the version of its code, its parameters and the fingerprints of its inputs. A changed setting
therefore gives a new fingerprint to the stages that it affects, and to no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.units import CHUNK_ROWS, file_rows

RECORD_BYTES = 1 << 10  # bytes of the record of a task or a file: its name and checksum


TASK_S = 20.0  # projected seconds that a task is cut to


# Interpreter, torch, faiss, numba and their kernels: 360 MiB with kernels compiled before, 490 MiB in a first run.
BASELINE_BYTES = 500 << 20


@dataclass(frozen=True)
class Cost:
    """Projected cost of a stage.

    Memory of one task is ``fixed_bytes + bytes_per_thread * threads + bytes_per_row * rows of the task``. ``seconds``
    are those of the whole stage on the reference machine (two quiet AVX2 cores). ``seconds_per_task``: seconds that
    each task adds, however few rows it has. ``kind``: what limits the speed, which is integer products (codes), float
    products, memory accesses, or the disk.

    A task with ``companions`` shares ``companion_bytes`` and ``companion_seconds`` out among up to so many of them, on
    hosts of their own. Where there is one worker, its task has all of it.
    """

    fixed_bytes: int = 0
    bytes_per_thread: int = 0
    bytes_per_row: float = 0.0
    disk_bytes: int = 0
    seconds: float = 0.0
    seconds_per_task: float = 0.0
    kind: Literal["codes", "floats", "memory", "disk"] = "memory"
    gpu_speed: float = 0.0  # how many times as fast a GPU is as two cores; 0: no faster
    companions: int = 1
    companion_bytes: int = 0
    companion_seconds: float = 0.0

    def task_bytes(self, rows: int, threads: int) -> int:
        shared = self.companion_bytes
        return int(self.fixed_bytes + shared + self.bytes_per_thread * threads + self.bytes_per_row * rows)


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    ``function`` is ``"module:name"`` of ``run(task: TaskContext, start, stop) -> dict``. ``inputs`` maps the names that
    the function uses to stage names or, for a store made earlier, to a folder. ``num_rows`` is the extent that is cut
    into tasks; a stage of one task has ``num_rows`` 1 and ``granule`` 1. ``where`` locates outside files (source,
    model, labels), or says what cannot change a result. It is no part of the fingerprint; the digests of the files'
    contents are, as parameters.

    A stage with ``unless`` is left out once the facts of the stage of that name say ``enough``; the outputs of
    ``instead`` then stand for its own. The outputs of a ``scratch`` stage are deleted once no later stage reads them.

    The one task of a stage with ``all_workers`` may share its work with companions in the other workers' places.

    Folders are named by ``name`` and ``digest``, so the limits declared here are checked when a stage is read from a
    file.
    """

    name: Annotated[str, Field(pattern=r"^[a-z_0-9]{1,100}$")]
    function: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    num_rows: Annotated[int, Field(ge=0, le=2**40)]
    cost: Cost
    where: Mapping[str, Any] = field(default_factory=dict)
    granule: Annotated[int, Field(ge=1)] = CHUNK_ROWS
    unless: str = ""
    instead: str = ""
    scratch: bool = False
    all_workers: bool = False
    block_rows: Annotated[int, Field(ge=0)] = 0
    threads: int = 1
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = ""
    kind: str = ""  # of a declared step: stands in the fingerprint instead of the function
    step: Any = field(default=None, repr=False)  # the declared step, for the tasks; it is not recorded

    @property
    def folder(self) -> str:
        """Name of the folder of the stage's outputs inside the run."""
        return f"{self.name}-{self.digest[:12]}"

    @property
    def memory_bytes(self) -> int:
        """Projected peak memory of the whole process while one task of this stage runs."""
        rows = min(self.block_rows or self.num_rows, self.num_rows)
        return BASELINE_BYTES + self.cost.task_bytes(rows, self.threads)

    @property
    def disk_bytes(self) -> int:
        """Projected bytes of the stage's outputs, whose files are whole, and of its tasks' records."""
        rows = max(self.num_rows, 1)
        each = file_rows(rows)
        files = -(-rows // each)
        padded = files * each / rows if self.granule > 1 else 1.0
        return int(self.cost.disk_bytes * padded) + RECORD_BYTES * (self.num_tasks() + (files if padded > 1 else 0))

    @property
    def total_seconds(self) -> float:
        """Projected seconds of all tasks, one after the other, on the reference machine."""
        return self.cost.seconds + self.cost.companion_seconds + self.cost.seconds_per_task * self.num_tasks()

    def seconds(self, speeds: Mapping[str, float]) -> float:
        """Projected seconds on a machine of these speeds, each a multiple of the reference machine's."""
        return self.total_seconds / speeds[self.cost.kind]

    def num_tasks(self) -> int:
        return -(-self.num_rows // self.block_rows) if self.block_rows else 1


@dataclass(frozen=True)
class Task:
    """A range of a stage's rows, the unit of scheduling, commit and retry."""

    stage: str
    start: int
    stop: int
