"""Compare methods on one labelled source: train each on some identities, cluster the rows of the others, score both.

No identity is in both halves, and whatever a method has to choose is chosen on the first; what is scored is the second.
All methods share the vectors, and the KNN graph where they take vectors as they are. Each is trained, and run, in a
process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine import api
from engine.commands import summary
from engine.commands.apart import execute_apart
from engine.commands.configuration import load_settings
from engine.commands.resources import Resources
from engine.comparison.page import ComparisonRow, render_comparison
from engine.errors import ConfigError, DataError, EngineError, RunBusy
from engine.methods.cdp.settings import CdpSettings
from engine.methods.model_card import MODEL_FILE, WEIGHTS_FILE
from engine.methods.registry import METHODS, PRESETS
from engine.random_streams import COMPARED_HALVES, stream
from engine.runs.events import read_events
from engine.sections import fingerprint
from engine.settings import Settings
from engine.storage import manifest
from engine.storage.arrays import map_array
from engine.storage.cache import local_copy
from engine.storage.context import committed_records
from engine.storage.formats.export import write_labels
from engine.storage.formats.label_files import read_labels
from engine.storage.manifest import OutputFile
from engine.storage.outputs import out_folder
from engine.storage.owned import Count, Digest, FileKind, Sealed, Text, read_owned
from engine.storage.remote import is_url
from engine.tiles import tile_bounds

RESULTS_FILE = "comparison.json"
REPORT_FILE = summary.COMPARISON_PAGE
STORE = summary.COMPARISON_STORE
GIVEN = "given"  # begins the name of the file that an array is saved to
COPY_ROWS = 65_536
POINT = ("partition", "min_score", "min_intimacy", "max_size", "num_clusters", "distance", "min_rows", "selection")


class RowFile(Sealed):
    """A method's row as it was measured; ``key``: the fingerprint of the work."""

    key: Text
    name: Text
    scores: dict[str, float]
    run_seconds: float
    train_seconds: float
    peak_bytes: Count
    point: dict[str, Any]
    missing: Text


class PartFile(Sealed):
    """Size and checksum of a part's vectors."""

    num_bytes: Count
    content: Digest


_AGAIN = "asterism compare makes it again"
ROW, PART = FileKind(RowFile, _AGAIN, version=2), FileKind(PartFile, _AGAIN)


@dataclass(frozen=True)
class Contender:
    """A method to compare: ``METHOD``, a preset's name ``METHOD/PRESET``, either with ``:PARTITION``."""

    name: str
    method: str
    preset: str | None = None
    partition: str | None = None

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Raises ``ConfigError`` naming what is not known."""
        base, _, partition = text.strip().partition(":")
        preset = base if "/" in base else None
        method: Any = PRESETS[base]["method"] if preset in PRESETS else base
        if method not in METHODS:
            known = ", ".join([*METHODS, *PRESETS])
            raise ConfigError(f"--methods {text}: no such method; known: {known}; each may be followed by :partition")
        if partition:
            METHODS[method].check(load_settings(overrides={"partition.method": partition}), training=False)
        return cls(text.strip(), method, preset, partition or None)

    @property
    def slug(self) -> str:
        return self.name.replace("/", "-").replace(":", "-")

    def settings(self, given: Mapping[str, Any], seed: int | None) -> Settings:
        """Its preset's settings, those given that it reads, and its partition."""
        read = {name: value for name, value in given.items() if METHODS[self.method].reads(name, training=True)}
        partition = {"partition.method": self.partition} if self.partition else {}
        return load_settings(self.preset, {**read, **partition}, method=self.method, seed=seed)


@dataclass(frozen=True)
class Part:
    """The train or test rows: a request without settings, and the committee's vectors of the same rows."""

    request: api.Request
    committee: tuple[str, ...]

    def asked(self, settings: Settings) -> api.Request:
        """The request with a method's settings."""
        if self.committee and METHODS[settings.method].takes_committee:
            cdp = settings.of(CdpSettings).model_copy(update={"committee": self.committee})
            settings = settings.with_section(cdp)
        return replace(self.request, settings=settings)


def split_identities(labels_N: np.ndarray, seed: int) -> np.ndarray:
    """Put half of the identities, drawn from the seed, into 0, the others and unknown rows into 1: (N,) int8."""
    known, places = np.unique(labels_N, return_inverse=True)
    halves = stream(seed, COMPARED_HALVES).permutation(len(known)) % 2
    return np.where(labels_N < 0, 1, halves[places]).astype(np.int8)


def compare(
    features: np.ndarray | str | Path,
    labels: np.ndarray | str | Path,
    out: str | Path,
    methods: Sequence[str],
    *,
    split: str | Path | None = None,
    dim: int | None = None,
    column: str | None = None,
    labels_column: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    resources: Mapping[str, Any] | None = None,
    progress: bool = False,
    tell: Callable[[ComparisonRow], None] | None = None,
) -> list[ComparisonRow]:
    """Train, run and score each of ``methods`` (see ``Contender``); run again, it takes up where it stopped.

    ``features`` and ``labels`` as ``train`` takes them. ``split``: a file of 0 (train) and 1 (test) per row, identities
    in one only; default: half of the identities, drawn from the seed. ``settings``: of the methods that read them, by
    dotted names; refused if none does. Rows of unknown identity, -1, are clustered with the test rows and not scored.
    Writes ``comparison.json`` and ``comparison.html`` into ``out``, a folder that is empty or holds a comparison, with
    each method's labels, report and model. A method that cannot take the source gets a row that says why.
    """
    contenders, out = [Contender.parse(text) for text in methods], _checked_out(out)
    if len({each.slug for each in contenders}) < len(contenders):
        raise ConfigError(f"--methods {','.join(methods)}: the same method twice")
    using, given = Resources(**(resources or {})), dict(settings or {})
    for name, option in (("method", "--methods"), ("seed", "--seed")):
        if name in given:
            raise ConfigError(f"--set {name}={given[name]}: a comparison has it from {option}")
    for name in given:
        if not any(METHODS[each.method].reads(name, training=True) for each in contenders):
            raise ConfigError(f"--set {name}={given[name]}: none of {','.join(methods)} reads it")
    for each in contenders:
        METHODS[each.method].check(each.settings(given, seed), training=True)
    manifest.remove_abandoned(out.rglob(".*.tmp"))
    ingest = load_settings(overrides={name: value for name, value in given.items() if name.startswith("ingest")})
    request = api.Request(features=api.as_path(features, out / GIVEN), dim=dim, column=column, settings=ingest)
    store = api.prepare("store", out / STORE, request, using)
    labels_N = labels if isinstance(labels, np.ndarray) else read_labels(local_copy(labels), column=labels_column)
    if len(labels_N) != store.source.num_rows:
        raise DataError(f"{len(labels_N):,} labels for {store.source.num_rows:,} rows; expected one per row")
    split_N = _read_split(split, labels_N) if split is not None else split_identities(labels_N, seed or 0)
    committee = []
    if any(METHODS[each.method].takes_committee for each in contenders):
        for path in load_settings(overrides=given).of(CdpSettings).committee:
            member = replace(request, features=path, column=None)
            committee.append(api.prepare("store", out / f"member-{fingerprint(path)[:12]}", member, using))
            if committee[-1].source.num_rows != store.source.num_rows:
                raise DataError(f"{path}: expected the rows of --features, {store.source.num_rows:,}")
    for prepared in (store, *committee):
        api.execute(prepared, progress=progress)
    parts = _write_parts(out, labels_N, split_N, [member.root for member in committee])
    rows = []
    for each in contenders:
        vectors = [store.source.digest, *(part.request.features for part in parts.values())]
        work = _work(each, parts, given, seed)
        key = fingerprint([*vectors, each.name, given, seed, *(member.source.digest for member in committee), *work])
        row = _finished(out, each, key)
        if row is None:
            row = _measure(out, each, parts, labels_N[split_N == 1], given, seed, using, progress)
            manifest.remove_place(_row_path(out, each))
            manifest.write_owned(_row_path(out, each), ROW, {"key": key, **asdict(row)})
        rows.append(row)
        if tell:
            tell(row)
    counts = {
        "train_rows": int((split_N == 0).sum()),
        "test_rows": int((split_N == 1).sum()),
        "unknown_rows": int((labels_N[split_N == 1] < 0).sum()),
    }
    found = {
        "seed": seed or 0,
        "settings": given,
        "written": datetime.now().isoformat(" ", "minutes"),
        "hardware": summary.hardware(),
        "versions": summary.versions(),
    }
    manifest.write_json(
        out / RESULTS_FILE, {"source": request.features, "rows": [asdict(row) for row in rows], **counts, **found}
    )
    reports = {each.name: f"runs/{each.slug}.html" for each in contenders}
    reports = {name: path for name, path in reports.items() if (out / path).exists()}
    html = render_comparison(Path(request.features), rows, counts, found, reports)
    manifest.write_atomic(out / REPORT_FILE, lambda stream: stream.write(html.encode("utf-8", "backslashreplace")))
    return rows


def _checked_out(out: str | Path) -> Path:
    """The comparison's folder, unless it holds something else, among which a comparison's files would be put."""
    if is_url(out):
        raise ConfigError(f"--out {out}: a comparison is written to a folder of this machine")
    folder = Path(out_folder(out))
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    begun = {name for name in held if name in (STORE, RESULTS_FILE) or name.startswith((f"{GIVEN}.", f".{GIVEN}."))}
    if held and (not begun or manifest.RUN_FILE in held):
        raise ConfigError(f"--out {folder}: is not empty and holds no comparison; choose another folder")
    return folder


def _measure(
    out: Path,
    each: Contender,
    parts: Mapping[int, Part],
    truth: np.ndarray,
    given: Mapping[str, Any],
    seed: int | None,
    resources: Resources,
    progress: bool,
) -> ComparisonRow:
    settings, model, spent = each.settings(given, seed), None, 0.0
    try:
        if METHODS[each.method].trains:
            folder = out / "training"
            execute_apart("training", folder, parts[0].asked(settings), resources, progress=progress)
            spent = _cost(folder)[0]
            model = out / "models" / each.slug
            for name in (MODEL_FILE, WEIGHTS_FILE):
                manifest.copy_atomic(folder / name, model / name)
        folder = out / "run"
        request = replace(parts[1].asked(settings), model=None if model is None else str(model), labels=None)
        execute_apart("run", folder, request, resources, progress=progress)
    except RunBusy:  # says nothing of the method
        raise
    except EngineError as error:
        return ComparisonRow(each.name, missing=str(error))
    found = api.run_labels(folder)
    seconds, peak_bytes = _cost(folder)
    write_labels(out / "runs" / f"{each.slug}.npy", found, "npy")
    manifest.copy_atomic(folder / summary.REPORT_FILE, out / "runs" / f"{each.slug}.html")
    point = {name: value for name, value in summary.operating_point(folder).items() if name in POINT}
    return ComparisonRow(each.name, api.evaluate(found, truth), seconds, spent, peak_bytes, point)


def _work(each: Contender, parts: Mapping[int, Part], given: Mapping[str, Any], seed: int | None) -> list[str]:
    """What would be done: another version of the package may do otherwise, and its rows are measured anew."""
    settings, found = each.settings(given, seed), []
    kinds: tuple[tuple[api.Kind, Part], ...] = ("training", parts[0]), ("run", parts[1])
    for kind, part in kinds:
        try:
            if kind == "run" or METHODS[each.method].trains:
                found.append(api.describe_work(kind, part.asked(settings)))
        except EngineError as error:  # the method cannot take the source, or needs what training will choose
            found.append(str(error))
    return found


def _cost(folder: Path) -> tuple[float, int]:
    """Seconds of all tasks of a finished plan, shared stages included, and the most memory of a stage."""
    held = manifest.read_run(folder)
    digests = {stage["digest"] for stage in held["plan"]["stages"]}
    seconds = sum(
        record.seconds
        for stage in held["plan"]["stages"]
        for record in committed_records(folder / f"{stage['name']}-{stage['digest'][:12]}", stage["digest"])
    )
    peaks = [
        event["peak_bytes"]
        for event in read_events(folder)
        if event["event"] == "stage_finished" and event["digest"] in digests and event["tasks_run"]
    ]
    return round(seconds, 2), max(peaks, default=0)


def _read_split(path: str | Path, labels_N: np.ndarray) -> np.ndarray:
    split_N = read_labels(local_copy(path), len(labels_N))
    if not np.isin(split_N, (0, 1)).all():
        row = int(np.flatnonzero(~np.isin(split_N, (0, 1)))[0])
        raise DataError(f"{path}, row {row}: expected 0 (train) or 1 (test), got {split_N[row]}")
    both = np.intersect1d(labels_N[(split_N == 0) & (labels_N >= 0)], labels_N[(split_N == 1) & (labels_N >= 0)])
    if len(both):
        raise DataError(f"{path}: identity {both[0]} has rows of both parts; expected every identity in one")
    return split_N.astype(np.int8)


def _write_parts(out: Path, labels_N: np.ndarray, split_N: np.ndarray, committee: Sequence[Path]) -> dict[int, Part]:
    """The two parts' vectors and labels as files, from the stores."""
    parts = {}
    for number, name in ((0, "train"), (1, "test")):
        rows = np.flatnonzero(split_N == number)
        sizes = np.unique(labels_N[rows][labels_N[rows] >= 0], return_counts=True)[1]
        if sizes.max(initial=0) < 2:
            raise DataError(
                f"the {name} part has {len(rows):,} rows of {len(sizes):,} known identities, none of two rows; "
                f"expected identities of several rows in both parts"
            )
        digest = fingerprint([rows.tolist(), labels_N[rows].tolist()])[:12]
        folder = out / f"{name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        labels = folder / "labels.npy"
        features, *members = (_write_rows(folder, store, rows) for store in (out / STORE, *committee))
        write_labels(labels, labels_N[rows], "npy")
        parts[number] = Part(api.Request(features=features, labels=str(labels)), tuple(members))
    return parts


def _write_rows(folder: Path, store: Path, rows: np.ndarray) -> str:
    path = folder / ("features.npy" if store.name == STORE else f"{store.name}.npy")
    noted = path.with_suffix(".json")
    if not _is_whole(path, noted):
        features_ND = map_array(summary.vectors_folder(store, "features"), "features")
        for place in (path, noted):
            manifest.remove_place(place)
        written = manifest.write_atomic(path, lambda stream: _copy_rows(stream, features_ND, rows))
        manifest.write_owned(noted, PART, {"num_bytes": written.num_bytes, "content": written.checksum})
    return str(path)


def _is_whole(path: Path, noted: Path) -> bool:
    """Tell whether a part's vectors are what was written: a damaged file would be another source, and be scored."""
    try:
        held = read_owned(noted, PART)
    except DataError:
        return False
    return manifest.output_damage(path.parent, OutputFile(path.name, held["num_bytes"], held["content"])) is None


def _copy_rows(stream: Any, features_ND: np.ndarray, rows: np.ndarray) -> None:
    header = {"descr": features_ND.dtype.str, "fortran_order": False, "shape": (len(rows), features_ND.shape[1])}
    np.lib.format.write_array_header_1_0(stream, header)
    for start, stop in tile_bounds(0, len(rows), COPY_ROWS):
        stream.write(np.ascontiguousarray(features_ND[rows[start:stop]]).tobytes())


def _row_path(out: Path, each: Contender) -> Path:
    return out / "rows" / f"{each.slug}.json"


def _finished(out: Path, each: Contender, key: str) -> ComparisonRow | None:
    """The row that an earlier comparison measured of the same work; a damaged one is measured again."""
    try:
        tree = read_owned(_row_path(out, each), ROW)
    except DataError:
        return None
    return ComparisonRow(**tree) if tree.pop("key") == key else None
