"""Clustering metrics of ten million rows: the engine's beside scikit-learn's.

    python benchmarks/metrics.py [--quick] [--rows 10000000]

Identities have the sizes of a face benchmark; the prediction splits a third of them, joins some and scatters a tenth of
the rows. Every measurement is a process of its own, from two int64 label arrays in memory to figures: ``all`` is
``evaluate_labels`` (pairwise, BCubed, NMI and ARI from one table), the others one metric alone. scikit-learn has no
BCubed. Where both have a metric they must agree to 1e-9. Writes ``benchmarks/records/metrics.json``
(``metrics_quick.json`` with ``--quick``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np
from apart import found_version, measure_apart, timed
from recording import write_record

from engine.evaluation.metrics import evaluate_labels, f_from_counts, pair_counts

ROWS, QUICK_ROWS, MEAN_SIZE = 10_000_000, 500_000, 68
AGREEMENT = 1e-9

Figures = dict[str, float]


def make_labels(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw (predicted, identities), both (num_rows,) int64."""
    random = np.random.default_rng(1)
    sizes = np.exp(np.log(MEAN_SIZE) - 0.7**2 / 2 + 0.7 * random.standard_normal(2 * num_rows // MEAN_SIZE))
    sizes = np.maximum(2, np.rint(sizes)).astype(np.int64)
    identities = np.repeat(np.arange(len(sizes)), sizes)[:num_rows]
    random.shuffle(identities)
    half = random.integers(0, 2, num_rows)
    predicted = 2 * np.where(identities % 50 == 0, identities // 100, identities) + half * (identities % 3 == 0)
    scattered = random.random(num_rows) < 0.1
    predicted[scattered] = random.integers(0, 2 * len(sizes), int(scattered.sum()))
    return predicted, identities


def ours_all(predicted: np.ndarray, identities: np.ndarray) -> Figures:
    return evaluate_labels(predicted, identities).as_dict()


def ours_pairwise(predicted: np.ndarray, identities: np.ndarray) -> Figures:
    counts = pair_counts(predicted, identities)
    return {
        "pairwise_precision": counts.precision, "pairwise_recall": counts.recall, "pairwise_f": f_from_counts(counts),
    }  # fmt: skip


def sklearn_pairwise(predicted: np.ndarray, identities: np.ndarray) -> Figures:
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, false), (missed, both) = pair_confusion_matrix(identities, predicted).astype(np.float64)
    precision, recall = both / (both + false), both / (both + missed)
    return {
        "pairwise_precision": precision, "pairwise_recall": recall,
        "pairwise_f": 2 * precision * recall / (precision + recall),
    }  # fmt: skip


def sklearn_nmi(predicted: np.ndarray, identities: np.ndarray) -> Figures:
    from sklearn.metrics import normalized_mutual_info_score

    return {"nmi": float(normalized_mutual_info_score(identities, predicted))}


def sklearn_ari(predicted: np.ndarray, identities: np.ndarray) -> Figures:
    from sklearn.metrics import adjusted_rand_score

    return {"ari": float(adjusted_rand_score(identities, predicted))}


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], Figures]] = {
    "all": ours_all, "pairwise": ours_pairwise, "sklearn pairwise": sklearn_pairwise, "sklearn nmi": sklearn_nmi,
    "sklearn ari": sklearn_ari,
}  # fmt: skip


def main() -> int:
    """Measure everything, print, record; 1 if the figures disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        work = MEASURES[arguments.measure]
        work(*make_labels(1000))  # everything is loaded
        labels = make_labels(arguments.rows)
        figures, seconds = timed(lambda: work(*labels))
        print(json.dumps({"seconds": seconds, "figures": figures}))
        return 0
    return compare(QUICK_ROWS if arguments.quick else arguments.rows, arguments.quick)


def compare(num_rows: int, quick: bool) -> int:
    """Run every measure apart and hold their figures against each other."""
    rows = []
    for name in MEASURES:
        row = {"measure": name, **measure_apart(__file__, ["--measure", name, "--rows", str(num_rows)])}
        row["added_bytes"] = row["peak_bytes"] - row["before_bytes"]
        rows.append(row)
        added = f"{row['added_bytes'] / 1e9:.2f} GB above the labels"
        print(f"{name:18} {row.get('seconds', row.get('failed'))} s  {added}", flush=True)
    ours = rows[0]["figures"]
    print(json.dumps(ours))
    apart = max(abs(value - ours[name]) for row in rows for name, value in row.get("figures", {}).items())
    settings = {"num_rows": num_rows, "scikit-learn": found_version("scikit-learn")}
    write_record("metrics_quick" if quick else "metrics", settings, {"rows": rows, "largest_disagreement": apart})
    return int(apart > AGREEMENT)


if __name__ == "__main__":
    sys.exit(main())
