"""Every file that a run, a store, a training or a comparison owns, damaged in every way: named or mended, never used.

The files are found by walking the folders, so a new one is covered by itself. What is expected of a command is one of
two things: an ``EngineError`` that names the folder, or the very labels that the undamaged files give.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import api
from engine.commands.configuration import load_settings
from engine.commands.report_data import report_data
from engine.commands.status import run_status
from engine.comparison.compare import compare
from engine.errors import EngineError
from engine.runs.runner import check_stores
from engine.storage.context import release_held
from engine.storage.owned import tree_checksum
from engine.storage.places import open_place
from tests.support.vectors import make_blobs

NUM_ROWS, DIM = 240, 8
LONGEST_S = 60  # of one command: a FIFO that is opened would be waited for without end
Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Kept:
    """Folders that were made once, undamaged, and what they give."""

    root: Path
    labels: bytes

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def model(self) -> Path:
        return self.root / "model"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    root = tmp_path_factory.mktemp("damage")
    vectors = make_blobs(NUM_ROWS, DIM)
    names = [f"row {row}" for row in range(NUM_ROWS)]
    columns = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM), "id": names, "item": names}
    pq.write_table(pa.table(columns), root / "x.parquet")
    drawn = np.random.default_rng(0)
    centres = drawn.standard_normal((NUM_ROWS // 12, DIM))
    np.save(root / "y.npy", drawn.permutation(NUM_ROWS) % len(centres))  # as ``make_blobs`` draws them
    request = api.Request(str(root / "x.parquet"), items_column="item")
    api.execute(api.prepare("store", root / "store", request), progress=False)
    run(root / "run", root / "store", root / "y.npy")
    api.train(
        root / "x.parquet", root / "y.npy", root / "model", method="gcn_v",
        **{"knn.k": 12, "gcn_v.hidden": 8, "train.max_steps": 2, "train.evaluate_every": 1},
    )  # fmt: skip
    return Kept(root, api.run_labels(root / "run").tobytes())


def run(out: Path, features: Path, labels: Path) -> None:
    request = api.Request(str(features), load_settings(overrides={"knn.k": 12}, method="cosine"), labels=str(labels))
    try:
        api.execute(api.prepare("run", out, request), progress=False)
    finally:
        release_held()


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def cut(share: float) -> Damage:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.unlink()  # maps of the old file stay whole
        path.write_bytes(data[: int(share * len(data))])

    damage.__name__ = f"cut to {share:.0%}"
    return damage


def flip(share: float, bit: int) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        path.unlink()
        if data:
            data[int(share * (len(data) - 1))] ^= 1 << bit
        path.write_bytes(data)

    damage.__name__ = f"bit {bit} at {share:.0%}"
    return damage


DAMAGES: list[Damage] = [
    missing, folder, fifo, dangling, cut(0), cut(0.5), flip(0, 0), flip(0.3, 1), flip(0.6, 5), flip(1, 6),
]  # fmt: skip


def files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


@contextmanager
def damaged(path: Path, damage: Damage) -> Iterator[None]:
    """The file, damaged in its place; afterwards it is as it was."""
    spare = path.with_name(f"{path.name}.spare")
    shutil.copy2(path, spare)
    try:
        damage(path)
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        spare.rename(path)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def hang(number: int, frame: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ends_well(act: Callable[[], bytes], expected: bytes, name: str, what: str) -> bool:
    """Whether a command gave the expected bytes; else it must have said what is wrong, naming ``name``."""
    try:
        with at_most(LONGEST_S):
            found = act()
    except EngineError as error:
        assert name in str(error), f"{what}: {error}"  # noqa: PT017
        return False
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert found == expected, f"{what}: other results"
    return True


def told(root: Path) -> bytes:
    """What ``status`` gives, of which figures may differ: that it says something."""
    return b"told" if json.dumps(run_status(root)) else b""


def exported(root: Path, out: Path) -> bytes:
    """What ``export`` and ``evaluate`` give: labels, all that is known of the rows, and the clusters."""
    api.export(root, out / "labels.npy", "npy")
    api.export(root, out / "rows.parquet", "parquet")
    api.export(root, out / "clusters.parquet", "parquet", clusters=True)
    return b"".join((out / name).read_bytes() for name in ("labels.npy", "rows.parquet", "clusters.parquet"))


def reported(root: Path) -> bytes:
    """What the report shows of the result; how long stages took may be lost with a damaged event or record."""
    found = report_data(root)
    return repr(
        (found.num_clusters, found.metrics, found.sweep, found.curve, found.size_bins, found.galleries)
    ).encode()


def test_a_damaged_run_is_named_or_read_as_it_was(kept: Kept, tmp_path: Path) -> None:
    root = kept.run
    rows, report = exported(root, tmp_path), reported(root)
    for number, name in enumerate(files(root)):
        for damage in DAMAGES[number % 3 :: 3]:  # each third meets files of every kind, as there are several
            with damaged(root / name, damage):
                what = f"{name}, {damage.__name__}"
                ends_well(lambda: told(root), b"told", str(root), f"status: {what}")
                ends_well(lambda: exported(root, tmp_path), rows, str(root), f"export: {what}")
                ends_well(lambda: reported(root), report, str(root), f"report: {what}")


def resume(root: Path) -> None:
    """Resume a run or a training, and let go of what it held of its damaged files."""
    try:
        api.resume(root, progress=False)
    finally:
        release_held()


def test_a_damaged_run_is_mended_by_a_resume(kept: Kept, tmp_path: Path) -> None:
    rows, report = exported(kept.run, tmp_path), reported(kept.run)
    mended = 0
    for number, name in enumerate(files(kept.run)):
        damage = DAMAGES[number % len(DAMAGES)]
        root = tmp_path / str(number)
        shutil.copytree(kept.run, root)
        damage(root / name)

        def act(root: Path = root) -> bytes:
            resume(root)
            return exported(root, tmp_path) + reported(root)

        mended += ends_well(act, rows + report, str(root), f"resume: {name}, {damage.__name__}")
        shutil.rmtree(root)
    assert mended > len(files(kept.run)) / 2


def test_a_lost_manifest_costs_nothing_that_was_computed(kept: Kept, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(kept.run, root)
    (root / "run.json").write_bytes((kept.run / "run.json").read_bytes()[:-9])
    before = {path: (root / path).stat().st_mtime_ns for path in files(root) if "-" in path.parts[0]}
    run(root, kept.store, kept.root / "y.npy")
    assert {path: (root / path).stat().st_mtime_ns for path in before} == before
    assert api.run_labels(root).tobytes() == kept.labels


def test_a_damaged_store_is_refused_before_work_begins_or_clustered_as_it_was(kept: Kept, tmp_path: Path) -> None:
    rows = exported(kept.run, tmp_path)
    for name in files(kept.store):
        ran = False
        for number, damage in enumerate(DAMAGES):
            what, out = f"{name}, {damage.__name__}", tmp_path / f"{name.name}-{number}"

            def prepared(out: Path = out) -> bytes:
                plan = api.prepare("run", out, api.Request(str(kept.store), load_settings(method="cosine"))).plan
                check_stores(plan, [stage.name for stage in plan.stages])
                return b""

            with damaged(kept.store / name, damage):
                ends_well(lambda: exported(kept.run, tmp_path), rows, str(kept.root), f"export: {what}")
                taken = ends_well(prepared, b"", str(kept.store), f"prepare: {what}")
                assert not out.exists()
                if taken and not ran:
                    ran = True
                    run(out, kept.store, kept.root / "y.npy")
                    assert api.run_labels(out).tobytes() == kept.labels, what


def test_a_damaged_training_is_named_or_mended(kept: Kept, tmp_path: Path) -> None:
    names = ("model.json", "model.safetensors")
    whole = b"".join((kept.model / name).read_bytes() for name in names)
    for name in names:
        for damage in DAMAGES:
            with damaged(kept.model / name, damage):
                request = api.Request(str(kept.store), model=str(kept.model))
                taken = ends_well(
                    lambda request=request: api.prepare("run", tmp_path / "run", request).plan.kind.encode(),  # type: ignore[misc]
                    b"run", str(kept.model), f"run --model: {name}, {damage.__name__}",
                )  # fmt: skip
                assert not taken, f"{name}, {damage.__name__}"
    training = Path(api.training_folder(kept.model))
    shutil.copytree(kept.model, tmp_path / "model")
    for number, path in enumerate(path for path in files(training) if path.suffix in (".json", ".safetensors")):
        if path.parts[0].partition("-")[0] not in ("fit", "select", "run.json"):
            continue
        damage = DAMAGES[number % len(DAMAGES)]
        root = tmp_path / str(number)
        shutil.copytree(training, root)
        damage(root / path)
        shutil.rmtree(kept.model, ignore_errors=True)

        def act(root: Path = root) -> bytes:
            resume(root)
            return b"".join((kept.model / name).read_bytes() for name in names)

        ends_well(act, whole, str(root), f"resume: {path}, {damage.__name__}")
    shutil.rmtree(kept.model, ignore_errors=True)
    shutil.copytree(tmp_path / "model", kept.model)


def key_damages(tree: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Each key of a tree missing, and of another type; of a list the first element alone."""
    for key in list(tree) if isinstance(tree, dict) else range(min(len(tree), 1)):
        value = tree[key]
        wrong: Any = 7 if isinstance(value, str | dict | list) else "seven"

        def drop(whole: Any, key: Any = key) -> None:
            del _at(whole, where)[key]

        def put(whole: Any, key: Any = key, wrong: Any = wrong) -> None:
            _at(whole, where)[key] = wrong

        yield f"{(*where, key)} missing", drop
        yield f"{(*where, key)} of another type", put
        if isinstance(value, dict | list) and key not in ("settings", "facts", "params", "where", "spec"):
            yield from key_damages(value, (*where, key))


def _at(tree: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        tree = tree[key]
    return tree


def resealed(change: Callable[[Any], None]) -> Damage:
    """Change a file as someone does who keeps its checksum right."""

    def damage(path: Path) -> None:
        tree = json.loads(path.read_text())
        sealed = tree.pop("checksum", None) is not None
        change(tree)
        path.unlink()
        path.write_text(json.dumps({**tree, "checksum": tree_checksum(tree)} if sealed else tree))

    return damage


def test_keys_that_are_missing_or_of_another_type_are_named_or_change_nothing(kept: Kept) -> None:
    report = reported(kept.run)
    seen = set[str]()
    for name in files(kept.run):
        kind = name.name if name.parent.name != "records" else "record"
        if name.suffix != ".json" or (name.parent.name not in ("", "records") and kind in seen):
            continue
        tree = json.loads((kept.run / name).read_text())
        if "checksum" not in tree:
            continue
        if kind == "record" and not name.parts[0].startswith(("labels", "roots", "recall", "analysis")):
            continue
        seen.add(kind)
        del tree["checksum"]
        for what, change in key_damages(tree):
            with damaged(kept.run / name, resealed(change)):
                text = f"{name}: {what}"
                ends_well(lambda: told(kept.run), b"told", str(kept.run), f"status: {text}")
                ends_well(lambda: api.run_labels(kept.run).tobytes(), kept.labels, str(kept.root), f"labels: {text}")
                ends_well(lambda: reported(kept.run), report, str(kept.run), f"report: {text}")
    assert {"run.json", "stage.json", "record"} <= seen


def test_another_version_is_named(kept: Kept, tmp_path: Path) -> None:
    for version in (1, 3, "2", None):
        for name in (kept.run / "run.json", next(kept.run.glob("labels-*/stage.json")), kept.model / "model.json"):
            with damaged(name, resealed(lambda tree: tree.__setitem__("format_version", version))):  # noqa: B023
                root = kept.model if name.name == "model.json" else kept.run
                request = api.Request(str(kept.store), model=str(root))
                prepare = partial(api.prepare, "run", tmp_path / "run", request)
                with pytest.raises(EngineError, match=r"\.json: (written by|format_version)"):
                    prepare() if root == kept.model else exported(root, tmp_path)


def test_a_damaged_comparison_is_measured_again(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute_here(kind: Any, root: Path, request: api.Request, resources: Any, *, progress: bool) -> None:
        api.execute(api.prepare(kind, root, request, resources), progress=progress)

    monkeypatch.setattr("engine.comparison.measurement.execute_apart", execute_here)  # a process takes seconds to begin
    given = {
        "features": kept.root / "x.parquet",
        "labels": kept.root / "y.npy",
        "out": tmp_path / "out",
        "settings": {"knn.k": 12},
    }
    (first,) = compare(methods=["cosine"], **given)
    for name in ("rows/cosine.json", "comparison.json", *(str(p.relative_to(tmp_path / "out")) for p in (
        *(tmp_path / "out").glob("t*-*/features.npy"), *(tmp_path / "out").glob("t*-*/labels.npy")))):  # fmt: skip
        flip(0.7, 1)(tmp_path / "out" / name)
        if name.startswith("rows"):
            cut(0.5)(tmp_path / "out" / name)
        (again,) = compare(methods=["cosine"], **given)
        assert (again.scores, again.point) == (first.scores, first.point), name
    assert open_place(tmp_path / "out" / "run").root.exists()
