"""The effort of a run: the hosts of its tasks, the repeated attempts, and the number of starts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from engine.runs.events import read_events


@dataclass(frozen=True)
class Effort:
    """The sums over all starts of a run.

    ``retries``: repeated attempts. ``lost``: attempts whose worker died, after ``lost_s`` seconds in sum. Attempts that
    were running when the driver died are not counted, because they left no event.
    """

    starts: int
    executor: str
    hosts: dict[str, int]
    tasks: int
    retries: int
    lost: int
    lost_s: float

    def __str__(self) -> str:
        names = ", ".join(f"{host} ({tasks:,})" for host, tasks in list(self.hosts.items())[:8])
        more = f" and {len(self.hosts) - 8} more" if len(self.hosts) > 8 else ""
        hosts = f"{len(self.hosts)} hosts" if len(self.hosts) != 1 else "one host"
        started = f"started {self.starts} times" if self.starts != 1 else "started once"
        again = f"{self.retries} attempts made again" if self.retries else "no attempt made again"
        lost = f", {self.lost} of them as their worker was lost, with {self.lost_s:.1f} s of work" if self.lost else ""
        return f"{self.tasks:,} tasks on {hosts}: {names}{more}; {started}; {again}{lost}"


def run_effort(root: Path) -> Effort:
    """Read a run's effort from its events, whether it is finished or not."""
    starts, executor = 0, ""
    hosts: Counter[str] = Counter()
    retries = lost = 0
    lost_s = 0.0
    for event in read_events(root):
        kind = event["event"]
        if kind == "run_started":
            starts, executor = starts + 1, event["executor"]
        elif kind == "task_committed":
            hosts[event.get("host", "unknown")] += 1
        elif kind == "task_failed":
            retries += 1
            lost += bool(event.get("lost"))
            lost_s += event.get("lost_s", 0.0)
    return Effort(starts, executor, dict(hosts.most_common()), hosts.total(), retries, lost, round(lost_s, 3))
