"""Progress of a run: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from engine.process.masking import masked
from engine.process.terminal import PlainConsole, shown
from engine.stages import Stage

PLAIN_INTERVAL_S = 10.0


class Display(Protocol):
    """A display of progress."""

    def message(self, text: str) -> None: ...
    def begin(self, stage: Stage, done_rows: int) -> None: ...
    def advance(self, stage: Stage, rows: int) -> None: ...
    def note(self, stage: Stage, fraction: float, text: str) -> None: ...
    def end(self, stage: Stage, seconds: float, peak_bytes: int, skipped: bool) -> None: ...
    def close(self) -> None: ...


class Quiet:
    """A display that shows nothing."""

    def message(self, text: str) -> None:
        pass

    def begin(self, stage: Stage, done_rows: int) -> None:
        pass

    def advance(self, stage: Stage, rows: int) -> None:
        pass

    def note(self, stage: Stage, fraction: float, text: str) -> None:
        pass

    def end(self, stage: Stage, seconds: float, peak_bytes: int, skipped: bool) -> None:
        pass

    def close(self) -> None:
        pass


class Plain(Quiet):
    """A line when a stage begins and ends, and every ten seconds between."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started = self._last = 0.0
        self._first = self._done = 0

    def message(self, text: str) -> None:
        print(shown(masked(text)), file=self._stream, flush=True)

    def begin(self, stage: Stage, done_rows: int) -> None:
        self._started = self._last = time.monotonic()
        self._first = self._done = done_rows
        tasks = stage.num_tasks()
        work = f"{stage.num_rows:,} rows in {tasks} task{'s' * (tasks > 1)}" if stage.num_rows > 1 else "1 task"
        resumed = f", {done_rows:,} rows already committed" if done_rows else ""
        self.message(f"{stage.name}: {work}{resumed}")

    def advance(self, stage: Stage, rows: int) -> None:
        self._done += rows
        self._line(stage, self._done / stage.num_rows, "")

    def note(self, stage: Stage, fraction: float, text: str) -> None:
        self._line(stage, fraction, text)

    def end(self, stage: Stage, seconds: float, peak_bytes: int, skipped: bool) -> None:
        if skipped:
            self.message(f"{stage.name}: already committed")
        else:
            self.message(f"{stage.name}: done in {seconds:.1f} s, peak {peak_bytes / 1e9:.2f} GB")

    def _line(self, stage: Stage, fraction: float, text: str) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL_S:
            return
        self._last = now
        rate, left = rate_and_left(stage, fraction, self._first, now - self._started)
        self.message(f"{stage.name}: {fraction:.0%} {rate} {left} {text}".rstrip())


class Bars:
    """Rich bars with rate and time left, one per stage."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}", style="cyan", markup=False),
            console=PlainConsole(stderr=True),
        )
        self._progress.start()
        self._ids: dict[str, TaskID] = {}
        self._started = 0.0
        self._first = 0

    def message(self, text: str) -> None:
        self._progress.console.print(shown(masked(text)))

    def begin(self, stage: Stage, done_rows: int) -> None:
        self._started, self._first = time.monotonic(), done_rows
        self._ids[stage.name] = self._progress.add_task(stage.name, total=stage.num_rows, completed=done_rows, facts="")

    def advance(self, stage: Stage, rows: int) -> None:
        task = self._ids[stage.name]
        self._progress.advance(task, rows)
        self._facts(stage, self._progress.tasks[self._progress.task_ids.index(task)].completed / stage.num_rows, "")

    def note(self, stage: Stage, fraction: float, text: str) -> None:
        self._facts(stage, fraction, text)

    def end(self, stage: Stage, seconds: float, peak_bytes: int, skipped: bool) -> None:
        if stage.name not in self._ids:
            self.begin(stage, stage.num_rows)
        facts = "already committed" if skipped else f"{stage.num_rows / max(seconds, 1e-9):,.0f} rows/s"
        if stage.num_rows == 1 and not skipped:
            facts = ""
        peak = "" if skipped else f" peak {peak_bytes / 1e9:.2f} GB"
        self._progress.update(self._ids[stage.name], completed=stage.num_rows, facts=facts + peak)

    def close(self) -> None:
        self._progress.stop()

    def _facts(self, stage: Stage, fraction: float, text: str) -> None:
        rate, left = rate_and_left(stage, fraction, self._first, time.monotonic() - self._started)
        self._progress.update(self._ids[stage.name], facts=f"{rate} {left} {text}".strip())


def rate_and_left(stage: Stage, fraction: float, first_rows: int, elapsed_s: float) -> tuple[str, str]:
    """Return words for the rate since this run began the stage, and for the time left at that rate."""
    done = fraction - first_rows / stage.num_rows
    if done <= 0 or elapsed_s <= 0:
        return "", ""
    left = round(elapsed_s * (1 - fraction) / done)
    rate = f"{done * stage.num_rows / elapsed_s:,.0f} rows/s," if stage.num_rows > 1 else ""
    return rate, f"{left // 60}:{left % 60:02} left"


def make_display(show: bool) -> Display:
    """Choose bars on a terminal, lines elsewhere, and nothing without ``show``."""
    if not show:
        return Quiet()
    return Bars() if sys.stderr.isatty() else Plain()


class Ticker:
    """Call ``poll`` twice a second on a thread while a stage runs, for tasks that report their progress."""

    def __init__(self, poll: Callable[[], None]) -> None:
        self._poll = poll
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(0.5):
            self._poll()
