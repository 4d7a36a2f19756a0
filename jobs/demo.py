"""The main job on a laptop: handwritten digits without labels, then STAR-FC on identities it has never seen.

    python jobs/demo.py --out demo-output

Writes two runs, each with an HTML report, and prints how the clusters compare with plain thresholding.
"""

from __future__ import annotations

from engine.process.stopping import stop_cleanly

if __name__ == "__main__":
    stop_cleanly()  # before what takes seconds to load

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from sklearn.datasets import load_digits
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


def print_scores(title: str, run: Path) -> None:
    """Print a run's scores beside plain thresholding at its best threshold."""
    table = Table("", *COLUMNS.values(), title=title, title_justify="left")
    for row in report_data(run).metrics:
        table.add_row(row.name, *(_cell(row.scores.get(name)) for name in COLUMNS))
    console.print(table)
    console.say(f"report: {run / REPORT_FILE}")
    console.print()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if 0 <= value <= 1 else f"{value:,.0f}"


def main() -> int:
    """Run both parts of the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo-output", help="folder for data, runs and reports")
    parser.add_argument("--identities", type=int, default=500, help="identities of each stand-in part")
    arguments = parser.parse_args()
    return run_job(lambda: work(arguments))


def work(arguments: argparse.Namespace) -> None:
    """Make the data and cluster them."""
    out = Path(out_folder(arguments.out))
    cluster_digits(out)
    cluster_standin(out, arguments.identities)


if __name__ == "__main__":
    raise SystemExit(main())
