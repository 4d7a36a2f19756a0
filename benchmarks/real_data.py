"""Learned methods on real data: trained on split 0's identities, run on split 1's, beside cosine baselines.

    python benchmarks/real_data.py --data ../shared/data [--only historical_figures] [--learned structural]
        [--seeds 0 1] [--work /tmp/real-data]

Every parameter of every row, max_size included, is chosen on train identities, but for two rows without labels whose
defaults were settled on these sets: the map equation on cosines, and self_trained's doubts and trees. Prints a table;
rows of ``benchmarks/records/real_data.json`` are replaced by data set, method and seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from baselines import choose_cosine, vertex_identities
from recording import record_row

from engine import api, evaluate, summary

SETS = ("historical_figures", "pooled_faces", "pricerunner")
LEARNED = ("star_fc", "structural")


def read_set(data: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and split of one data set, or of the two face sets pooled without the identities they share."""
    if name != "pooled_faces":
        return tuple(np.load(data / name / f"{part}.npy") for part in ("features", "labels", "split"))  # type: ignore[return-value]
    lfw = read_set(data, "lfw_faces")
    shared = np.loadtxt(data / "lfw_faces/overlap.txt", dtype=np.int64, ndmin=1)
    kept = ~np.isin(lfw[1], shared)
    first = tuple(part[kept] for part in lfw)
    second = read_set(data, "vggface69_faces")
    labels = np.concatenate([first[1], second[1] + first[1].max() + 1])
    return np.concatenate([first[0], second[0]]), labels, np.concatenate([first[2], second[2]])


def measure(data: Path, name: str, work: Path, seed: int, learned_ones: list[str]) -> Iterator[dict[str, Any]]:
    """Train and run one data set; yield one row per method."""
    features, labels, split = read_set(data, name)
    paths = {}
    for part in (0, 1):
        folder = work / f"{name}-{part}"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "features.npy", features[split == part])
        np.save(folder / "labels.npy", labels[split == part])
        paths[part] = folder
    truth = paths[1] / "labels.npy"
    rows: list[tuple[str, dict[str, Any]]] = [
        ("no labels, cosine", {"method": "cosine"}),
        ("no labels, self_trained", {"method": "self_trained"}),
        ("no labels, map_equation", {"method": "cosine", "partition": {"method": "map_equation"}}),
    ]
    trained, models = {}, {learned: work / f"{name}-model-{learned}-{seed}" for learned in learned_ones}
    for learned, model in models.items():
        started = time.perf_counter()
        api.train(paths[0] / "features.npy", paths[0] / "labels.npy", model, method=learned, seed=seed, progress=True)
        trained[learned] = round(time.perf_counter() - started, 1)
        for partition in ("components", "propagation", "map_equation", "preferred"):
            chosen = {} if partition == "preferred" else {"partition": {"method": partition}}
            rows.append((f"{learned} {partition}", {"model": model, **chosen}))
    graph = work / f"{name}-train-cosine"  # of the vectors as they are, not in a model's metric
    api.cluster(paths[0] / "features.npy", workspace=graph, method="cosine")
    threshold, (least, cap) = choose_cosine(graph, vertex_identities(graph, labels[split == 0]))
    cosine: dict[str, dict[str, Any]] = {
        "components": {"method": "components", "min_score": threshold},
        "CDP": {"method": "propagation", "min_score": least, "max_size": cap},
    }
    rows = [(f"cosine {title}", {"method": "cosine", "partition": chosen}) for title, chosen in cosine.items()] + rows
    for method, arguments in rows:
        started = time.perf_counter()
        result = api.cluster(
            paths[1] / "features.npy",
            workspace=work / f"{name}-run-{method.split()[0]}-{seed}",
            **arguments,
        )
        scores = evaluate(result.labels, truth)
        point = {
            k: v
            for k, v in summary.operating_point(result.run).items()
            if k in ("min_score", "min_intimacy", "max_size")
        }
        yield {
            "data": name, "method": method, "seed": seed, **scores, "point": point,
            "train_seconds": trained.get(method.split()[0]), "run_seconds": round(time.perf_counter() - started, 1),
        }  # fmt: skip


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--only", nargs="*", default=list(SETS))
    parser.add_argument("--learned", nargs="*", default=list(LEARNED), choices=LEARNED)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--work", type=Path, help="folder for runs, kept and resumed; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for name, seed in product(arguments.only, arguments.seeds):
            for row in measure(arguments.data, name, work, seed, arguments.learned):
                record_row("real_data", {}, row, ("data", "method", "seed"), lambda each: SETS.index(each["data"]))
                print(
                    f"{name:20} {row['method']:26} pairwise F {100 * row['pairwise_f']:5.1f}  "
                    f"BCubed F {100 * row['bcubed_f']:5.1f}  {json.dumps(row['point'])}", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
