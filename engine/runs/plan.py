"""Plans: the stages of a run in order and their costs, made before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.errors import DiskBudgetExceeded, MemoryBudgetExceeded
from engine.sections import fingerprint
from engine.stages import BASELINE_BYTES, TASK_S, Stage, Task
from engine.units import CHUNK_ROWS, file_rows, human_bytes


@dataclass(frozen=True)
class Plan:
    """The stages of a run in order, frozen before anything runs."""

    kind: str
    stages: tuple[Stage, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    @property
    def disk_bytes(self) -> int:
        return peak_disk_bytes(self.stages)

    @property
    def memory_bytes(self) -> int:
        return max(stage.memory_bytes for stage in self.stages)

    def seconds(self, speeds: Mapping[str, float]) -> float:
        """Project the seconds of the run without stages that may not be needed; ``speeds`` as in ``Stage.seconds``."""
        return sum(stage.seconds(speeds) for stage in self.stages if not stage.unless)

    def as_dict(self) -> dict[str, Any]:
        return asdict(replace(self, stages=tuple(replace(stage, step=None) for stage in self.stages)))


def peak_disk_bytes(stages: Sequence[Stage]) -> int:
    """Return the peak bytes of the stages' outputs if all run; scratch outputs go after their last reader."""
    last = {name: at for at, stage in enumerate(stages) for name in (*stage.inputs.values(), stage.instead)}
    held = most = 0
    for number, stage in enumerate(stages):
        held += stage.disk_bytes
        most = max(most, held)
        held -= sum(s.disk_bytes for s in stages[: number + 1] if s.scratch and last.get(s.name, -1) == number)
    return most


def make_plan(
    kind: str,
    stages: Sequence[Stage],
    *,
    source_digest: str,
    memory_bytes: int,
    free_disk_bytes: int,
    block_rows: int = 0,
    workers: int = 1,
    threads: int = 1,
    memory_of_each: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Plan:
    """Compute the stages' fingerprints and choose each stage's block so that one task per worker fits the memory.

    ``block_rows``: rows of a task (rounded up to the granule, reduced to fit memory); 0 aims at tasks of 5-60 s.
    ``threads``: of each worker. ``memory_bytes``: of each worker if ``memory_of_each``, else of all together.
    Raises ``MemoryBudgetExceeded`` naming the worst stage, and ``DiskBudgetExceeded``.
    """
    sized = []
    sharing = 1 if memory_of_each else workers
    allowed = memory_bytes // sharing
    for stage, digest in zip(stages, stage_digests(stages, source_digest), strict=True):
        rows = fit_block(stage, allowed, block_rows, workers, threads)
        sized.append(replace(stage, digest=digest, block_rows=rows, threads=threads))
    plan = Plan(kind, tuple(sized), dict(facts or {}))
    refused = [stage for stage in plan.stages if stage.memory_bytes > allowed]
    if refused:
        worst = max(refused, key=lambda stage: stage.memory_bytes)
        each = f" for each of {sharing} workers" if sharing > 1 else " for each worker" if workers > 1 else ""
        raise MemoryBudgetExceeded(
            f"stage {worst.name} needs {human_bytes(worst.memory_bytes)} at its smallest block "
            f"({worst.block_rows:,} rows), but --memory allows {human_bytes(allowed)}{each}; raise --memory to at "
            f"least {memory_option(worst.memory_bytes * sharing)}" + _fewer(refused, memory_bytes, sharing)
        )
    if plan.disk_bytes > free_disk_bytes:
        raise DiskBudgetExceeded(
            f"the run needs about {human_bytes(plan.disk_bytes)} of disk, {human_bytes(free_disk_bytes)} are free: "
            f"free {human_bytes(plan.disk_bytes - free_disk_bytes)}, or choose an --out on a larger disk"
        )
    return plan


def stage_digests(stages: Sequence[Stage], source_digest: str) -> list[str]:
    """Return the fingerprint of each stage, which covers its kind, its version, its parameters and its inputs.

    It does not cover the module of a stage's function, so code may move.
    """
    digests: dict[str, str] = {}
    for stage in stages:
        upstream = {name: digests.get(origin, "outside") for name, origin in sorted(stage.inputs.items())}
        if stage.instead:  # because the check decides whose outputs are read
            upstream |= {"unless": digests[stage.unless], "instead": digests[stage.instead]}
        what = [stage.kind] if stage.kind else [stage.name, stage.function.rpartition(":")[2]]
        rows = [stage.num_rows]
        if (each := file_rows(stage.num_rows)) > CHUNK_ROWS:  # because files of other rows do not mix in a folder
            rows.append(each)
        digests[stage.name] = fingerprint([*what, stage.version, dict(stage.params), upstream, source_digest, *rows])
    return [digests[stage.name] for stage in stages]


def _fewer(refused: Sequence[Stage], memory_bytes: int, workers: int) -> str:
    """Return words for the threads or workers at which the refused stages would fit, if there are such numbers."""
    text = ""
    allowed = memory_bytes // workers
    fitting = min((_fitting_threads(stage, allowed) for stage in refused), default=0)
    if fitting >= 1:
        text += f", or --threads {fitting}"
    fewer = memory_bytes // max(stage.memory_bytes for stage in refused)
    if 1 <= fewer < workers:
        text += f", or --workers {fewer}"
    return text


def _fitting_threads(stage: Stage, memory_bytes: int) -> int:
    """Return the most threads at which a stage's smallest block fits ``memory_bytes``; 0 if none fits."""
    spare = memory_bytes - BASELINE_BYTES - stage.cost.task_bytes(min(stage.granule, stage.num_rows), 0)
    return max(0, spare // stage.cost.bytes_per_thread) if stage.cost.bytes_per_thread else 0


def largest_fitting(fits: Callable[[int], bool], below: int) -> int:
    """Return the largest number in 1..below - 1 that ``fits``, by bisection; 0 if none fits."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def count_pending(stage: Stage, committed: Sequence[tuple[int, int]]) -> int:
    """Return the number of tasks of ``pending_ranges`` without making them."""
    count, position, block = 0, 0, stage.block_rows or max(stage.num_rows, 1)
    for start, stop in [*sorted(committed), (stage.num_rows, stage.num_rows)]:
        if position < start:
            count += -(-start // block) - position // block
        position = max(position, stop)
    return count


def pending_ranges(stage: Stage, committed: Sequence[tuple[int, int]]) -> list[Task]:
    """Cut the rows that no committed range covers into tasks, at multiples of ``block_rows``."""
    tasks = []
    position = 0
    for start, stop in [*sorted(committed), (stage.num_rows, stage.num_rows)]:
        while position < start:
            end = min(start, (position // stage.block_rows + 1) * stage.block_rows)
            tasks.append(Task(stage.name, position, end))
            position = end
        position = max(position, stop)
    return tasks


def fit_block(stage: Stage, memory_bytes: int, asked_rows: int, workers: int, threads: int) -> int:
    """Return the rows of a stage's tasks: whole granules, as asked (0: about ``TASK_S`` of work), that fit."""
    granule = stage.granule
    limit = -(-stage.num_rows // granule) * granule
    if asked_rows:
        wanted = -(-asked_rows // granule) * granule
    else:
        seconds_per_row = stage.cost.seconds / max(stage.num_rows, 1)
        aim = max(TASK_S, 4 * stage.cost.seconds_per_task)
        by_time = int(aim / seconds_per_row) if seconds_per_row > 0 else limit
        by_share = -(-limit // (4 * workers))
        wanted = max(granule, min(by_time, max(by_share, 16 * granule)) // granule * granule)
    spare = memory_bytes - BASELINE_BYTES - stage.cost.task_bytes(0, threads)
    if stage.cost.bytes_per_row > 0:
        wanted = min(wanted, int(spare / stage.cost.bytes_per_row) // granule * granule)
    return max(granule, min(wanted, limit))


def memory_option(count: int) -> str:
    """Return a number of bytes in the form of ``--memory``, rounded up."""
    return f"{-(-count // 10**6)}MB"
