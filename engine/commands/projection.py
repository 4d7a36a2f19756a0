"""What a run would take on a described compute cluster: the local plan's costs, spread over its hosts.

The stages and their costs are those of ``engine.flow`` for a source of N rows; nothing else is estimated. With
H hosts of C cores, G GPUs and M bytes, and W = max(1, G) workers on each host (a worker has one GPU and C / W cores):

- *Tasks* of a stage over rows run on all H * W workers, in rounds of that many. A stage of one task runs on one worker
  while the others wait, however many hosts there are.
- *Cores.* A cost's seconds are those of two cores. c cores do c / 4 times as much: half of their number, as they share
  memory (16 cores built part1's graph about 4 times as fast as two; ``benchmarks/records/gpu.json``, ``scale.json``).
  A stage of one task gains from cores only if its cost tells of threads or products.
- *GPUs.* Only what was measured on one gains: exact search, 220 times as fast as two cores (one H100 with 16 cores,
  ``benchmarks/records/gpu.json``: 572K rows exactly in 8.4 s). Finding cells, embedding and scoring use a GPU too, but
  no figure of theirs as they are is recorded: they count as the cores'.
- *Storage* is shared by the hosts and gives each ``DISK_RATE``. A stage takes no less than writing its outputs and,
  spread, reading its inputs once over all hosts; gathers that outgrow a host's free memory read more.
- *Memory of a host* is W times that of a task (the others' baseline where one task runs alone): what is of the order
  of N, such as the order of the vertices or union-find's parents, is held by every worker and does not shrink with H.

A stage takes the longest of cores or GPUs and storage. Start-up, failures and uneven hosts are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.commands.probes import DISK_BYTES, REFERENCE
from engine.commands.request import Request
from engine.commands.resolution import resolve
from engine.commands.standin import DIM
from engine.errors import ConfigError
from engine.runs.plan import fit_block, largest_fitting, peak_disk_bytes
from engine.settings import Settings
from engine.stages import BASELINE_BYTES, Stage
from engine.steps.source import Source, describe_source
from engine.units import human_bytes

# Written, flushed and read again per second by the reference machine.
DISK_RATE = 2 * DISK_BYTES / REFERENCE["disk"]
REFERENCE_CORES = 2
CORES_SHARE = 0.5


@dataclass(frozen=True)
class ComputeCluster:
    """Equal hosts; ``memory_bytes`` and ``disk_bytes`` are what a run may use of each (0 bytes of disk: any number)."""

    hosts: int
    gpus_per_host: int = 0
    cores_per_host: int = 64
    memory_bytes: int = 512 * 10**9
    disk_bytes: int = 0

    @property
    def workers_per_host(self) -> int:
        return max(1, self.gpus_per_host)

    @property
    def threads(self) -> int:
        """Cores of one worker."""
        return max(1, self.cores_per_host // self.workers_per_host)


@dataclass(frozen=True)
class StageProjection:
    """One stage: where its tasks run, memory of a host, disk in total, seconds, and what these are spent on.

    ``bottleneck``: ``cores``, ``GPUs`` or ``storage``; ``one worker`` for a stage of one task.
    """

    name: str
    needed: bool
    workers: int
    tasks: int
    block_rows: int
    host_bytes: int
    disk_bytes: int
    seconds: float
    bottleneck: str


@dataclass(frozen=True)
class Projection:
    """A run on a compute cluster; ``refusals`` say what does not fit, and what would make it fit."""

    num_rows: int
    dim: int
    cluster: ComputeCluster
    stages: tuple[StageProjection, ...]
    disk_bytes: int
    refusals: tuple[str, ...] = ()

    @property
    def host_bytes(self) -> int:
        return max(stage.host_bytes for stage in self.stages)

    def seconds(self, *, every_pass: bool) -> float:
        """Seconds of the run, without the passes that may not be needed or with all of them."""
        return sum(stage.seconds for stage in self.stages if stage.needed or every_pass)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "host_bytes": self.host_bytes,
            "seconds": self.seconds(every_pass=False),
            "seconds_every_pass": self.seconds(every_pass=True),
            "one_worker_seconds": sum(
                s.seconds for s in self.stages if s.needed and (s.workers == 1 or s.bottleneck == "one worker")
            ),
        }


def described_source(num_rows: int, dim: int) -> Source:
    """A source of float32 vectors that is not there."""
    return Source("described.bin", {}, num_rows, dim, 4, "described", None, [])


def project(request: Request, cluster: ComputeCluster, rows: Sequence[int], block_rows: int = 0) -> list[Projection]:
    """Project a run on a described compute cluster: of the request's source, or of float32 vectors of these sizes.

    A learned method without a model stands with its default network. Raises ``ConfigError`` and ``DataError``.
    """
    dim = request.dim or DIM
    if rows and (request.labels or request.knn_graph):
        raise ConfigError("--labels and --knn-graph belong to --features; a described source has none")
    sources = [described_source(count, dim) for count in rows] or [
        describe_source(
            request.features,
            dim=request.dim,
            column=request.column,
            items_column=request.items_column,
            bits=request.bits,
        )
    ]
    projections = []
    for source in sources:
        settings, _, build = resolve("run", request, source, untrained=bool(rows))
        projections.append(project_run(build, source, settings, cluster, block_rows))
    return projections


def project_run(
    build: Callable[[Settings], Sequence[Stage]],
    source: Source,
    settings: Settings,
    cluster: ComputeCluster,
    block_rows: int = 0,
) -> Projection:
    """Project the stages that ``build`` makes of ``settings``, and look for the settings at which they would fit."""
    found = project_stages(build(settings), source, cluster, block_rows)
    refusals = _refusals(found)
    if not refusals:
        return found

    def fits(changed: Settings) -> bool:
        return not _refusals(project_stages(build(changed), source, cluster, block_rows))

    remedies: list[str] = []
    k = largest_fitting(lambda k: fits(settings.with_k(k)), min(settings.knn.k, source.num_rows - 1))
    if k:
        remedies.append(f"--set knn.k={k}")
    partition = settings.partition.model_copy(update={"method": "propagation"})
    if fits(settings.model_copy(update={"partition": partition})):
        remedies.append("--set partition.method=propagation")
    if remedies:
        refusals = [*refusals, f"all of it would fit with {' or '.join(remedies)}"]
    return replace(found, refusals=tuple(refusals))


def project_stages(stages: Sequence[Stage], source: Source, cluster: ComputeCluster, block_rows: int = 0) -> Projection:
    """Spread stages over a compute cluster; refuses nothing."""
    workers = cluster.hosts * cluster.workers_per_host
    share = cluster.memory_bytes // cluster.workers_per_host
    sized = [
        replace(
            stage, threads=cluster.threads, block_rows=fit_block(stage, share, block_rows, workers, cluster.threads)
        )
        for stage in stages
    ]
    written = {stage.name: stage.disk_bytes for stage in sized}
    projected = tuple(_project(stage, source, cluster, workers, written) for stage in sized)
    return Projection(source.num_rows, source.dim, cluster, projected, peak_disk_bytes(sized))


def _project(
    stage: Stage, source: Source, cluster: ComputeCluster, workers: int, written: Mapping[str, int]
) -> StageProjection:
    alone = stage.num_rows == 1
    tasks = stage.num_tasks()
    busy = min(workers, tasks)
    on_gpu = stage.cost.gpu_speed > 0 and cluster.gpus_per_host > 0
    speed = stage.cost.gpu_speed if on_gpu else _cores_speed(cluster.threads)
    serial = not stage.cost.bytes_per_thread or stage.cost.companion_seconds
    if alone and not on_gpu and serial and stage.cost.kind == "memory":
        speed = 1.0
    alone_s = stage.total_seconds - stage.cost.companion_seconds
    compute = -(-tasks // busy) * alone_s / tasks / speed
    helpers = min(stage.cost.companions, workers)
    compute += stage.cost.companion_seconds / _cores_speed(cluster.threads) / helpers
    hosts = min(busy, cluster.hosts)
    moved = stage.disk_bytes
    if not alone:
        moved += sum(written.get(origin, 0) for origin in set(stage.inputs.values()))
        moved += 0 if stage.inputs else source.num_rows * source.dim * source.item_bytes
    storage = moved / hosts / DISK_RATE
    task_bytes = stage.memory_bytes - stage.cost.companion_bytes * (helpers - 1) // helpers
    host_bytes = task_bytes * max(-(-busy // cluster.hosts), -(-helpers // cluster.hosts))
    host_bytes += BASELINE_BYTES * (cluster.workers_per_host - -(-busy // cluster.hosts))
    if storage > compute:
        bottleneck = "storage"
    else:
        one = max(busy, helpers) == 1 or (helpers > 1 and alone_s / speed > compute / 2)
        bottleneck = "one worker" if one else "GPUs" if on_gpu else "cores"
    return StageProjection(
        stage.name,
        not stage.unless,
        max(busy, helpers),
        tasks,
        min(stage.block_rows, stage.num_rows),
        host_bytes,
        written[stage.name],
        max(compute, storage),
        bottleneck,
    )


def _cores_speed(cores: int) -> float:
    """Work of some cores as a multiple of the reference machine's two."""
    return max(min(cores, REFERENCE_CORES), CORES_SHARE * cores) / REFERENCE_CORES


def _refusals(found: Projection) -> list[str]:
    refusals = []
    cluster = found.cluster
    for stage in found.stages:
        if stage.host_bytes > cluster.memory_bytes:
            refusals.append(
                f"{stage.name} needs {human_bytes(stage.host_bytes)} of a host's {human_bytes(cluster.memory_bytes)}: "
                f"it would fit with --memory-per-host {_gigabytes(stage.host_bytes)}"
                f"{_fewer_workers(stage, cluster)}; more hosts do not help"
            )
    if cluster.disk_bytes and found.disk_bytes > cluster.disk_bytes * cluster.hosts:
        hosts = -(-found.disk_bytes // cluster.disk_bytes)
        refusals.append(
            f"the run needs {human_bytes(found.disk_bytes)} of disk, {cluster.hosts} hosts of "
            f"{human_bytes(cluster.disk_bytes)} hold {human_bytes(cluster.disk_bytes * cluster.hosts)}: it would fit "
            f"with --hosts {hosts} or --disk-per-host {_gigabytes(-(-found.disk_bytes // cluster.hosts))}"
        )
    return refusals


def _fewer_workers(stage: StageProjection, cluster: ComputeCluster) -> str:
    """Word how many workers on a host would fit, for a stage that all of them work on."""
    together = -(-stage.workers // cluster.hosts)
    each = (stage.host_bytes - BASELINE_BYTES * (cluster.workers_per_host - together)) / together
    fitting = int(cluster.memory_bytes / each)
    return f" or --gpus-per-host {fitting}" if 1 <= fitting < together else ""


def _gigabytes(count: int) -> str:
    return f"{-(-count // 10**9)}GB"
