"""Progress of a run: bars on a terminal, one bar in a notebook, plain lines elsewhere; all of it in the log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from typing import Any, Protocol, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from engine.process.logs import LOG
from engine.process.masking import masked
from engine.process.terminal import PlainConsole, shown
from engine.stages import Stage

PLAIN_INTERVAL_S = 10.0
NOTEBOOK_INTERVAL_S = 0.25


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


class Notebook(Quiet):
    """One bar in the output of a notebook's cell: the stage that runs, its rate and time left, then the total.

    ``show``: ``IPython.display.display``, or what does as it does. Messages are lines below each other.
    """

    def __init__(self, show: Callable[..., Any]) -> None:
        self._show = show
        self._handle: Any = None
        self._began = time.monotonic()
        self._started = self._drawn = 0.0
        self._first = self._done = self._finished = self._peak_bytes = 0

    def message(self, text: str) -> None:
        self._show({"text/plain": shown(masked(text))}, raw=True)

    def begin(self, stage: Stage, done_rows: int) -> None:
        self._started, self._first, self._done = time.monotonic(), done_rows, done_rows
        self._draw(stage.name, done_rows / stage.num_rows, "")

    def advance(self, stage: Stage, rows: int) -> None:
        self._done += rows
        self.note(stage, self._done / stage.num_rows, "")

    def note(self, stage: Stage, fraction: float, text: str) -> None:
        rate, left = rate_and_left(stage, fraction, self._first, time.monotonic() - self._started)
        self._draw(stage.name, fraction, f"{rate} {left} {text}".strip())

    def end(self, stage: Stage, seconds: float, peak_bytes: int, skipped: bool) -> None:
        self._finished += 1
        self._peak_bytes = max(self._peak_bytes, peak_bytes)

    def close(self) -> None:
        if self._handle is not None:
            took = f"{self._finished} stages in {time.monotonic() - self._began:.1f} s"
            self._draw(took, 1.0, f"peak {self._peak_bytes / 1e9:.2f} GB", at_once=True)

    def _draw(self, name: str, fraction: float, facts: str, *, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self._drawn < NOTEBOOK_INTERVAL_S:
            return
        self._drawn = time.monotonic()
        plain = f"{name}: {fraction:.0%} {facts}".rstrip()
        bar = f'<progress value="{fraction:.3f}" max="1" style="width: 16em; vertical-align: middle"></progress>'
        page = {"text/plain": plain, "text/html": f"{bar} <b>{escape(name)}</b> {escape(facts)}"}
        if self._handle is None:
            self._handle = self._show(page, raw=True, display_id=True)
        else:
            self._handle.update(page, raw=True)


class Logged:
    """A display whose words also go to the logger ``asterism``."""

    def __init__(self, display: Display) -> None:
        self.display = display

    def message(self, text: str) -> None:
        LOG.info("%s", shown(masked(text)))
        self.display.message(text)

    def begin(self, stage: Stage, done_rows: int) -> None:
        LOG.debug("%s: begins, %s of %s rows are committed", stage.name, f"{done_rows:,}", f"{stage.num_rows:,}")
        self.display.begin(stage, done_rows)

    def advance(self, stage: Stage, rows: int) -> None:
        self.display.advance(stage, rows)

    def note(self, stage: Stage, fraction: float, text: str) -> None:
        self.display.note(stage, fraction, text)

    def end(self, stage: Stage, seconds: float, peak_bytes: int, skipped: bool) -> None:
        if skipped:
            LOG.debug("%s: already committed", stage.name)
        else:
            LOG.info("%s: done in %.1f s, peak %.2f GB", stage.name, seconds, peak_bytes / 1e9)
        self.display.end(stage, seconds, peak_bytes, skipped)

    def close(self) -> None:
        self.display.close()


def make_display(show: bool) -> Display:
    """Choose bars on a terminal, one bar in a notebook, lines elsewhere, nothing without ``show``; all is logged."""
    if not show:
        return Logged(Quiet())
    notebook = notebook_display()
    if notebook is not None:
        return Logged(Notebook(notebook))
    return Logged(Bars() if sys.stderr.isatty() else Plain())


def notebook_display() -> Callable[..., Any] | None:
    """Return ``IPython.display.display`` if this process is the kernel of a notebook, else ``None``."""
    ipython = sys.modules.get("IPython")  # a kernel has loaded it
    shell = None if ipython is None else ipython.get_ipython()
    if type(shell).__name__ != "ZMQInteractiveShell":
        return None
    display: Callable[..., Any] = import_module("IPython.display").display
    return display


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
