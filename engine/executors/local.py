"""The embedded executor: one process that runs one task at a time, with kernels on all cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.executors.protocol import Outcome, attempt
from engine.storage.context import TaskCall, release_held


class LocalExecutor:
    """Runs tasks in this process, in order."""

    name = "local"
    workers = workers_asked = 1

    def run(self, calls: Sequence[TaskCall]) -> Iterator[Outcome]:
        """Run the calls one after another; see ``Executor.run``."""
        for call in calls:
            yield attempt(call)

    def close(self) -> None:
        """Drop the arrays and models held between tasks."""
        release_held()
