"""The exception family: every error the engine raises on purpose.

Each class also inherits the built-in a caller would catch anyway. A message says what failed, where (stage, block,
path, row), what was expected and what was got, and what to do about it.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of every error the engine raises on purpose; the command line prints it without a traceback."""


class ConfigError(EngineError, ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


class DataError(EngineError, ValueError):
    """Input data is missing, malformed, or disagrees with itself; names the file and the rows."""


class RunBusy(DataError):
    """Another process is working on the run: later, the same command may go on."""


class ManifestMismatch(EngineError, ValueError):
    """The output folder holds a run of another source, or a model of another shape or format."""


class MemoryBudgetExceeded(EngineError, MemoryError):
    """No block of the named stage fits the memory budget; says which setting would make it fit."""


class DiskBudgetExceeded(EngineError, OSError):
    """The working files would not fit the disk, or writing one failed."""


class StorageFailed(EngineError, OSError):
    """A storage refused something, or has failed for longer than is waited for; what was committed is kept."""


class TaskFailed(EngineError, RuntimeError):
    """A task failed on every attempt; groups the causes by stage and block."""


class DependencyMissing(EngineError, ImportError):
    """An optional package is needed for what was asked; names the extra that installs it."""
