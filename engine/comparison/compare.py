"""Compare methods on one labelled source: train each on some identities, cluster the rows of the others, score both.

No identity is in both parts. A method chooses all that it has to choose on the train rows; scores are of the test rows.
All methods share the vectors, and the KNN graph if they take vectors as they are. Each is trained, and run, in a
process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.commands.configuration import load_settings
from engine.commands.execution import execute
from engine.commands.machine import hardware, versions
from engine.commands.preparation import prepare
from engine.commands.request import Given, Request, labels_of_any
from engine.commands.resources import Resources
from engine.commands.run_folder import COMPARISON_PAGE
from engine.comparison.contenders import Contender
from engine.comparison.measurement import describe_contender, finished_row, keep_row, measure
from engine.comparison.page import ComparisonRow, render_comparison
from engine.comparison.parts import STORE, read_split, split_identities, write_parts
from engine.errors import ConfigError, DataError
from engine.methods.cdp.settings import CdpSettings
from engine.methods.registry import METHODS
from engine.sections import fingerprint
from engine.storage import manifest
from engine.storage.formats.packed_bits import Bits
from engine.storage.outputs import out_folder
from engine.storage.places import GIVEN_FOLDER
from engine.storage.remote import is_url

RESULTS_FILE = "comparison.json"
REPORT_FILE = COMPARISON_PAGE


def compare(
    features: Any,
    labels: Any,
    out: str | Path,
    methods: Sequence[str],
    *,
    split: str | Path | None = None,
    dim: int | None = None,
    column: str | None = None,
    bits: Bits | None = None,
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
        METHODS[each.method].check(each.settings(given, seed))
    manifest.remove_abandoned(out.rglob(".*.tmp"))
    ingest = load_settings(overrides={name: value for name, value in given.items() if name.startswith("ingest")})
    with Given(out) as data:
        request = Request(features=data.vectors(features), dim=dim, column=column, bits=bits, settings=ingest)
        store = prepare("store", out / STORE, request, using)
        labels_N = labels_of_any(labels, column=labels_column)
        if len(labels_N) != store.source.num_rows:
            raise DataError(f"{len(labels_N):,} labels for {store.source.num_rows:,} rows; expected one per row")
    split_N = read_split(split, labels_N) if split is not None else split_identities(labels_N, seed or 0)
    committee = []
    if any(METHODS[each.method].takes_committee for each in contenders):
        for path in load_settings(overrides=given).of(CdpSettings).committee:
            member = replace(request, features=path, column=None, bits=None)
            committee.append(prepare("store", out / f"member-{fingerprint(path)[:12]}", member, using))
            if committee[-1].source.num_rows != store.source.num_rows:
                raise DataError(f"{path}: expected the rows of --features, {store.source.num_rows:,}")
    for prepared in (store, *committee):
        execute(prepared, progress=progress)
    parts = write_parts(out, labels_N, split_N, [member.root for member in committee])
    rows = []
    for each in contenders:
        vectors = [store.source.digest, *(part.request.features for part in parts.values())]
        work = describe_contender(each, parts, given, seed)
        key = fingerprint([*vectors, each.name, given, seed, *(member.source.digest for member in committee), *work])
        row = finished_row(out, each, key)
        if row is None:
            row = measure(out, each, parts, labels_N[split_N == 1], given, seed, using, progress)
            keep_row(out, each, key, row)
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
        "hardware": hardware(),
        "versions": versions(),
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
    """Return the comparison's folder. Raises ``ConfigError`` if it holds anything but a comparison."""
    if is_url(out):
        raise ConfigError(f"--out {out}: a comparison is written to a folder of this machine")
    folder = Path(out_folder(out))
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    begun = {name for name in held if name in (STORE, RESULTS_FILE, GIVEN_FOLDER)}
    if held and (not begun or manifest.RUN_FILE in held):
        raise ConfigError(f"--out {folder}: is not empty and holds no comparison; choose another folder")
    return folder
