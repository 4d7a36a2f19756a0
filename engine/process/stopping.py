"""End a command that is told to stop: with one line, without a traceback, within about a second.

Ctrl-C, SIGTERM and the end of the terminal interrupt the main thread, which then releases temporary files, locks,
leases and worker processes. A second thread prints the line. It ends the process when the main thread is done, or after
``GRACE_S``, because the main thread may be in a long computation that no exception reaches. Nothing is lost, because
committed work survives a kill at any moment.

This module imports no library, so that an entry point can call ``stop_cleanly`` before it loads the engine.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINE = "asterism: stopped; what was committed is kept, run the same command again to resume"
GRACE_S = 1.0  # time for the main thread to release what it holds
CODES = {128 + number for number in SIGNALS}  # exit codes of a stopped process

_SHOW_CURSOR = "\n\x1b[?25h"  # because a progress bar may have hidden it
_temporaries: set[Path] = set()


def stop_cleanly(*, silent: bool = False) -> None:
    """End this process as the module says from now on. The main thread of an entry point calls it once.

    The exit code is 128 plus the signal's number. Signals that the parent ignores (``nohup``) stay ignored. ``silent``:
    print no line, because the parent prints it.
    """
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    announcing, announced, interrupted, given_back = threading.RLock(), threading.Event(), [], threading.Event()

    def announce() -> None:
        """Print the line and close standard error, once, because later messages would only tell of the interruption."""
        with announcing, suppress(OSError):
            if announced.is_set():
                return
            announced.set()
            error = os.dup(2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            if not silent:
                os.write(error, ((_SHOW_CURSOR if os.isatty(error) else "") + LINE + "\n").encode())

    def interrupt(number: int, frame: Any) -> None:
        _ignore(handled)
        announce()
        interrupted.append(number)
        if len(interrupted) == 1:  # a second signal may come before signals are ignored
            raise KeyboardInterrupt

    def is_told(wait_s: float | None) -> bool:
        """Tell whether a signal has arrived that was not read yet."""
        return bool(select.select([reading], [], [], wait_s)[0])

    def watch() -> None:
        number = 0
        while number not in handled:  # a library may use other signals
            is_told(None)
            with announcing:  # so that a signal is announced as soon as it is read
                number = os.read(reading, 1)[0]
                if number in handled:
                    announce()
        given_back.wait(GRACE_S)
        for path in list(_temporaries):
            with suppress(OSError):
                path.unlink()
        os._exit(128 + number)

    def is_stopping() -> bool:
        with announcing:
            return announced.is_set() or is_told(0)

    def finish() -> None:
        with suppress(KeyboardInterrupt):
            _ignore(handled)  # the work is done
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        while is_stopping():  # also if a library has handled the signal instead
            given_back.set()
            time.sleep(0.01)  # until the other thread ends the process

    # The system writes the signal's number into the pipe at once, whatever the main thread is doing.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=watch, name="stopping", daemon=True).start()
    atexit.register(finish)
    for number in handled:
        signal.signal(number, interrupt)


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Delete a temporary file at the end of the block, also if the process is told to stop inside the block."""
    _temporaries.add(path)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        _temporaries.discard(path)


def _ignore(numbers: list[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
