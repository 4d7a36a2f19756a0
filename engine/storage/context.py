"""The context of a task: its parameters, its inputs, and the writers of outputs for its commit record."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from engine.errors import DataError, EngineError
from engine.storage import arrays, manifest, tables
from engine.storage.cache import in_use, local_copy, original_names
from engine.storage.companions import Companions, StartCompanions, start_here
from engine.storage.manifest import OutputFile, Record
from engine.storage.mappings import files_allowed, mapped_files
from engine.storage.owned import PROGRESS, RESUME, read_owned
from engine.storage.paths import below, check_file
from engine.storage.places import Place, open_stage
from engine.storage.remote import is_url

T = TypeVar("T")
PROGRESS_FILE = "progress.json"
PUBLISH_S = 5.0  # time between two reports of a task to a run's URL


@dataclass(frozen=True)
class TaskCall:
    """Everything that a worker needs to run one task, as plain data, so that any executor can send it.

    ``memory_bytes``: memory that the plan projects for the worker's process; 0 if it projects none.
    """

    function: str
    stage: str
    digest: str
    folder: str
    inputs: Mapping[str, str]
    params: Mapping[str, Any]
    where: Mapping[str, Any]
    num_rows: int
    start: int
    stop: int
    threads: int
    device: str
    memory_bytes: int = 0
    workers: int = 1  # among which the task may divide its work, its own worker included
    step: Any = None  # the declared step of the task, which ``function`` runs


@dataclass
class TaskContext:
    """The argument of a task function. It collects the outputs that the function writes.

    ``call`` has paths of this host. ``sent`` has the addresses that were sent; companions get it, because they may be
    on another host.
    """

    call: TaskCall
    place: Place
    sent: TaskCall
    start_companions: StartCompanions = start_here
    outputs: list[OutputFile] = field(default_factory=list)
    _reported: float = 0.0
    _published: float = 0.0

    @property
    def params(self) -> Mapping[str, Any]:
        return self.call.params

    @property
    def where(self) -> Mapping[str, Any]:
        return self.call.where

    @property
    def threads(self) -> int:
        return self.call.threads

    @property
    def folder(self) -> Path:
        return Path(self.call.folder)

    def input(self, name: str) -> Path:
        """Return the folder of a named input stage."""
        return Path(self.call.inputs[name])

    def array(self, name: str, array: str) -> np.ndarray:
        """Map an array of an input stage, read-only; the process keeps the map between tasks."""
        folder = self.input(name)

        def load() -> np.ndarray:
            release_held(keep_files=files_allowed() * 3 // 4)
            return arrays.map_array(folder, array)

        return hold(("array", str(folder), array), load)

    @contextmanager
    def companions(
        self, name: str, arguments: Sequence[tuple[Any, ...]], *, on_device: bool = False
    ) -> Iterator[Companions]:
        """Start companions of the class ``"module:Class"``, one for each tuple of plain arguments, for the block.

        The executor places them in this process, or in other processes and on other hosts. With ``on_device`` each gets
        as much of a GPU as a worker has.
        """
        started = self.start_companions(name, arguments, on_device)
        try:
            yield started
        finally:
            started.close()

    def write_rows(self, array: str, rows: np.ndarray, dtype: DTypeLike, num_rows: int | None = None) -> None:
        """Write this task's rows of an output array of ``num_rows`` rows (default: those of the stage)."""
        self.create_rows(array, rows.shape[1:], dtype, num_rows)
        start = 0 if num_rows is not None else self.call.start
        self.outputs += arrays.write_rows(self.folder, array, start, rows)

    def create_rows(
        self, array: str, row_shape: tuple[int, ...], dtype: DTypeLike, num_rows: int | None = None
    ) -> None:
        """Make an output array without rows, for ``arrays.write_rows``; ``write_rows`` does both."""
        shape = (self.call.num_rows if num_rows is None else num_rows, *row_shape)
        metadata = arrays.create_array(self.folder, array, shape, dtype)
        # Only one record lists the metadata, so that damage to it costs one task.
        self.outputs += [metadata] if num_rows is not None or self.call.start == 0 else []

    def write_table(self, table: str, columns: Mapping[str, Any]) -> None:
        """Write this task's part of an output table."""
        name = f"{table}/{self.call.start:012d}-{self.call.stop:012d}.arrow"
        written = tables.write_table(self.folder / name, columns)
        self.outputs.append(OutputFile(name, written.num_bytes, written.checksum))

    def write_file(self, name: str, write: Callable[[Any], Any]) -> None:
        """Write an output file through ``write(stream)``."""
        written = manifest.write_atomic(self.folder / name, write)
        self.outputs.append(OutputFile(name, written.num_bytes, written.checksum))

    def write_npy(self, name: str, array: np.ndarray) -> None:
        """Write an output array that is read whole, as ``name.npy``."""
        self.write_file(f"{name}.npy", lambda stream: np.lib.format.write_array(stream, array, allow_pickle=False))

    def write_npy_parts(self, name: str, parts: Iterable[np.ndarray], num_rows: int, dtype: DTypeLike) -> None:
        """Write the bytes of ``write_npy`` for a one-dimensional array given in parts; hold one part at a time."""

        def write(stream: Any) -> None:
            header = np.lib.format.header_data_from_array_1_0(np.empty(0, dtype)) | {"shape": (num_rows,)}
            np.lib.format.write_array_header_1_0(stream, header)
            for part in parts:
                stream.write(part.astype(dtype, copy=False).data)

        self.write_file(f"{name}.npy", write)

    def report(self, fraction: float, text: str = "") -> None:
        """Report progress inside a long task (0..1), at most twice a second, in a file of the stage's folder."""
        now = time.monotonic()
        if now - self._reported >= 0.5:
            self._reported = now
            manifest.write_owned(self.folder / PROGRESS_FILE, PROGRESS, {"fraction": fraction, "text": text})
            if now - self._published >= PUBLISH_S:
                self._published = now
                self.place.publish(self.folder / PROGRESS_FILE)

    def write_json(self, name: str, value: Any) -> None:
        """Write plain data as the output ``name.json``."""
        written = manifest.write_json(self.folder / f"{name}.json", value)
        self.outputs.append(OutputFile(f"{name}.json", written.num_bytes, written.checksum))


def read_progress(folder: Path) -> tuple[float, str] | None:
    """Return what the stage's long task reported last: the fraction done and a text."""
    try:
        value = read_owned(folder / PROGRESS_FILE, PROGRESS)
    except EngineError:  # damaged or missing; the task writes another one soon
        return None
    return float(value["fraction"]), str(value["text"])


def read_npy(folder: Path, name: str) -> np.ndarray:
    """Map an array that ``write_npy`` wrote. Raises ``DataError`` for a file that is no array."""
    path = check_file(folder / f"{name}.npy")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TypeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as an array ({error}); resume the run") from None


def table_parts(folder: Path, table: str) -> list[Path]:
    """Return the committed files of a stage's table, in row order."""
    digest = folder_digest(folder)
    return [
        folder / output.path
        for record in committed_records(folder, digest)
        for output in record.outputs
        if output.path.startswith(f"{table}/")
    ]


def stage_facts(folder: Path) -> list[dict[str, Any]]:
    """Return the facts of a stage's committed tasks, in row order. Raises ``DataError`` if there is no such task."""
    facts = [record.facts for record in committed_records(folder, folder_digest(folder))]
    if not facts:
        raise DataError(f"{folder} holds no commit record: it is not finished, or damaged; {RESUME}")
    return facts


def committed_records(folder: Path, digest: str, num_rows: int | None = None) -> list[Record]:
    """Return a stage's valid records, in row order, without overlaps and without rows beyond ``num_rows``."""
    kept: list[Record] = []
    for record in manifest.read_records(folder, digest):
        if (kept and record.start < kept[-1].stop) or (num_rows is not None and record.stop > num_rows):
            continue
        kept.append(record)
    return kept


def is_committed(folder: Path, digest: str, num_rows: int) -> bool:
    """Tell whether all rows of a stage were committed."""
    return sum(record.stop - record.start for record in committed_records(folder, digest, num_rows)) == num_rows


_FOUND_INTACT: set[tuple[Any, ...]] = set()


def check_outputs(folder: Path, *names: str) -> None:
    """Compare a stage's committed outputs with their checksums, once in a process. ``names``: files or folders.

    Raises ``DataError`` for the first damaged file. Callers check what they read for a result before they use it.
    """
    for record in committed_records(folder, folder_digest(folder)):
        for output in record.outputs:
            if not any(output.path == name or output.path.startswith(f"{name}/") for name in names):
                continue
            path = below(folder, output.path)
            with suppress(OSError):
                state = os.stat(path)
                if (key := (path, state.st_ino, state.st_size, state.st_mtime_ns, output)) in _FOUND_INTACT:
                    continue
            if (damage := manifest.output_damage(folder, output)) is not None:
                raise DataError(
                    f"{damage}: it was damaged after it was written; asterism resume {folder.parent} computes it again"
                )
            _FOUND_INTACT.add(key)


def folder_digest(folder: Path) -> str:
    """Return the full fingerprint of the stage whose outputs lie in ``folder``."""
    return str(manifest.read_stage(folder)["digest"])


def run_call(
    call: TaskCall, function: Callable[..., dict[str, Any]], start_companions: StartCompanions = start_here
) -> Record:
    """Run one task and commit it; the record is written last. Inputs and outputs may be at URLs.

    What tasks of another stage held is dropped, because no stage's cost counts it.
    """
    if call.digest not in _HELD_FOR:
        release_held()
        _HELD_FOR[:] = [call.digest]
    started = time.perf_counter()
    with _at_hand(call) as (local, place):
        context = TaskContext(local, place, call, start_companions)
        facts = function(context, call.start, call.stop)
        place.publish(*(context.folder / output.path for output in context.outputs))
        record = Record(
            call.digest, call.start, call.stop, tuple(context.outputs), facts, round(time.perf_counter() - started, 4)
        )
        manifest.write_record(context.folder, record)
        place.publish(manifest.record_path(context.folder, record))
    return record


class CompanionTask(TaskContext):
    """The context of a companion, by the call that was ``sent``: the task's inputs on the companion's host."""

    def __init__(self, sent: TaskCall) -> None:
        self._use = ExitStack()  # keeps copies of URLs as long as this object lives
        call, place = self._use.enter_context(_at_hand(sent))
        super().__init__(call, place, sent)


@contextmanager
def _at_hand(call: TaskCall) -> Iterator[tuple[TaskCall, Place]]:
    """Yield the call with this host's copies in the place of URLs; the copies stay for the block."""
    place, folder = open_stage(call.folder)
    inputs = {}
    with ExitStack() as use:
        if is_url(call.folder):
            use.enter_context(in_use(folder))
            place.fetch_records(folder)
        for name, address in call.inputs.items():
            source, path = open_stage(address)
            if is_url(address):
                use.enter_context(in_use(path))
                source.fetch(path)
            inputs[name] = str(path)
        copies: dict[str, str] = {}
        where = _copied(dict(call.where), use, copies)
        with original_names(copies):
            yield replace(call, folder=str(folder), inputs=inputs, where=where), place


def _copied(value: Any, use: ExitStack, copies: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item, use, copies) for name, item in value.items()}
    if isinstance(value, str) and is_url(value):
        path = str(local_copy(value, use))
        copies[path] = value
        return path
    return value


_HELD: OrderedDict[Any, Any] = OrderedDict()
_HELD_FOR: list[str] = []  # the digest of the stage whose tasks hold it
_HELD_LIMIT = 16


def hold(key: Any, load: Callable[[], T]) -> T:
    """Load something costly once per process and keep it for a stage's tasks; the least recently used goes first."""
    if key not in _HELD:
        _HELD[key] = load()
        while len(_HELD) > _HELD_LIMIT:
            _HELD.popitem(last=False)
    _HELD.move_to_end(key)
    return _HELD[key]


def release_held(keep_files: int = 0) -> None:
    """Drop what ``hold`` keeps, the least recently used first, until at most so many files of arrays are mapped.

    0: drop everything, because a run's folders are about to be removed or rewritten.
    """
    while _HELD and (not keep_files or mapped_files() > keep_files):
        _HELD.popitem(last=False)
