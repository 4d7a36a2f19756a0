"""Kill runs with SIGKILL at chosen stages and random moments, and see what became of what they had committed."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from engine import api
from engine.runs.events import read_events
from engine.runs.scratch import is_consumed

# Processes are forked from a server that has the engine imported, so that an attempt starts in no time.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engine.cli.app", "engine.commands.status"])

# Many small tasks, both ways to partition prepared: every kind of stage takes part.
ARGUMENTS: dict[str, Any] = {
    "knn": {"k": 20, "mode": "ivf", "num_probes": 8, "recall_samples": 50},
    "partition": {"method": "components", "min_score": 0.5, "min_intimacy": 0.3},
}
# The graph in passes: the first finds too little, the second enough, a third is allowed.
IN_PASSES: dict[str, Any] = ARGUMENTS | {
    "knn": {"k": 20, "mode": "partition", "num_probes": 1, "recall": 0.7, "recall_samples": 50}
}
RESOURCES = {"block_rows": 4096, "threads": 1}

Stamp = tuple[int, int]


def cluster(
    features: Path, root: Path, executor: str = "local", resources: dict[str, Any] | None = None,
    arguments: dict[str, Any] = ARGUMENTS,
) -> None:  # fmt: skip
    """Run, or resume, the folder ``root``; the body of the processes that are killed."""
    api.cluster(features, workspace=root, executor=executor, resources=resources or RESOURCES, **arguments)  # type: ignore[arg-type]


def start(
    features: Path, root: Path, executor: str = "local", resources: dict[str, Any] | None = None,
    arguments: dict[str, Any] = ARGUMENTS,
) -> Any:  # fmt: skip
    """Start ``cluster`` in a process of its own."""
    process = CONTEXT.Process(target=cluster, args=(features, root, executor, resources, arguments))
    process.start()
    return process


def stage_seconds(root: Path) -> dict[str, float]:
    """How long each finished stage of a run took, in their order."""
    return {e["stage"]: e["seconds"] for e in read_events(root) if e["event"] == "stage_finished"}


def kill_at(process: Any, root: Path, stage: str, delay_s: float, kill: Callable[[], None]) -> bool:
    """Call ``kill`` ``delay_s`` after ``process`` begins ``stage``; false if it ended before."""
    seen = len(read_events(root))
    while process.is_alive():
        events = read_events(root)[seen:]
        if any(e["event"] == "stage_started" and e["stage"] == stage and e["tasks"] for e in events):
            process.join(delay_s)
            if not process.is_alive():
                return False
            kill()
            return True
        time.sleep(0.005)
    return False


def kill_repeatedly(
    features: Path, root: Path, durations: dict[str, float], stages: list[str], rng: random.Random,
    arguments: dict[str, Any] = ARGUMENTS,
) -> list[dict[str, Any]]:  # fmt: skip
    """Kill and resume a run once in each of ``stages`` (in the run's order), then let it finish.

    A stage that an earlier, late kill let finish is passed over. Returns a line for each kill: the stage it struck, the
    delay since the stage meant began, and how many tasks were committed by then. Raises
    ``AssertionError`` as soon as a file of a committed task is written again.
    """
    kills: list[dict[str, Any]] = []
    committed: dict[str, Stamp] = {}
    for stage in stages:
        if stage in stage_seconds(root):
            continue
        process = start(features, root, arguments=arguments)
        delay = rng.uniform(0, durations[stage])
        killed = kill_at(process, root, stage, delay, process.kill)
        process.join()
        committed |= compare_committed(root, committed)
        if killed:
            struck = [e["stage"] for e in read_events(root) if e["event"] == "stage_started"][-1]
            kills.append({"stage": struck, "delay_s": round(delay, 3), "tasks_committed": count_records(root)})
        else:
            assert process.exitcode == 0, f"the run failed by itself before {stage}"
    process = start(features, root, arguments=arguments)
    process.join()
    assert process.exitcode == 0, "the run did not finish"
    compare_committed(root, committed)
    return kills


def kill_workers(
    process: Any, root: Path, durations: dict[str, float], num_kills: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Kill a Ray worker of the running ``process`` at a random moment of each stage, at most ``num_kills`` times."""
    kills: list[dict[str, Any]] = []
    hit: set[str] = set()
    while process.is_alive() and len(kills) < num_kills:
        begun = [e["stage"] for e in read_events(root) if e["event"] == "stage_started"]
        workers = workers_of(process.pid) if begun else []
        if not workers or begun[-1] in hit:
            time.sleep(0.005)
            continue
        process.join(rng.uniform(0, durations[begun[-1]]))
        try:
            rng.choice(workers).kill()
        except psutil.Error:
            continue
        hit.add(begun[-1])
        kills.append({"stage": begun[-1], "tasks_committed": count_records(root)})
    return kills


def workers_of(pid: int) -> list[psutil.Process]:
    """The Ray actors of the run that process ``pid`` drives."""
    workers = []
    with suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::TaskRunner"):
                    workers.append(process)
    return workers


def compare_committed(root: Path, before: dict[str, Stamp]) -> dict[str, Stamp]:
    """Check that no file of a task that was committed ``before`` was touched; return the stamps of all now.

    Of a scratch stage whose outputs were deleted, as no stage to come reads them, the records are left.
    """
    now = {}
    for record in root.glob("*/records/*.json"):
        tree = json.loads(record.read_text())
        folder = record.parent.parent
        outputs = [] if is_consumed(folder) else [folder / output["path"] for output in tree["outputs"]]
        for path in [record, *outputs]:
            stat = path.stat()
            now[str(path.relative_to(root))] = (stat.st_ino, stat.st_mtime_ns)
    for path, stamp in before.items():
        if "records" in Path(path).parts or not is_consumed(root / Path(path).parts[0]):
            assert now.get(path) == stamp, f"{path} was committed, and written again"
    return now


def count_records(root: Path) -> int:
    """Tasks committed in a run."""
    return len(list(root.glob("*/records/*.json")))


def commits(root: Path) -> Counter[tuple[str, int, int]]:
    """How often the events say that each task was committed."""
    return Counter((e["stage"], e["start"], e["stop"]) for e in read_events(root) if e["event"] == "task_committed")


def labels_bytes(root: Path) -> bytes:
    """The labels of a finished run, as the file's bytes."""
    (path,) = root.glob("labels-*/labels.npy")
    return path.read_bytes()
