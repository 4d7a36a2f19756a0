"""The default without labels on data of many kinds, all with one setting.

    python benchmarks/without_labels.py --data ../shared/data [--only febrl3 pairs] [--threads 2]

Real sets are whole, or the test half where there is one. ``cities_N`` are the first N cities. The situations of
``field_cases`` are made by its own script. Made regimes are plain and with a direction that all rows share
(``_shared``). Digits come with scikit-learn. Writes ``benchmarks/records/without_labels.json``, row by row.
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
from datasets import read_set
from recording import read_rows, record_row

from engine import cluster, evaluate

Rows = tuple[np.ndarray, np.ndarray]


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def noise(rows: int, dim: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(rows, dim)))


def identities(sizes: list[int] | np.ndarray, dim: int, spread: float, seed: int) -> Rows:
    """Rows around random centres, of mean cosine 1 / (1 + spread²) with their centre's others."""
    centres = np.repeat(noise(len(sizes), dim, seed + 100), sizes, axis=0)
    rows = unit(centres + spread / np.sqrt(dim) * np.random.default_rng(seed + 200).normal(size=centres.shape))
    return rows, np.repeat(np.arange(len(sizes)), sizes)


def among(found: Rows, alone: int, seed: int) -> Rows:
    """The same rows, and ``alone`` rows of noise."""
    rows, labels = found
    return np.concatenate([rows, noise(alone, rows.shape[1], seed)]), np.r_[labels, labels.max() + 1 + np.arange(alone)]


def families() -> Rows:
    """80 families of 8 identities that look alike, heavy-tailed."""
    centres = unit(np.repeat(noise(80, 128, 12), 8, axis=0) + 0.6 * noise(640, 128, 13))
    sizes = np.minimum(1 + np.random.default_rng(11).zipf(1.7, 640), 400)
    rows = np.repeat(centres, sizes, axis=0)
    rows = unit(rows + 0.45 / np.sqrt(128) * np.random.default_rng(14).normal(size=rows.shape))
    return rows, np.repeat(np.arange(640), sizes)


def with_shared_direction(rows: np.ndarray) -> np.ndarray:
    """Unit rows plus 1.5 times one random direction: unrelated rows have cosines of about 0.7 then."""
    direction = np.random.default_rng(9).normal(size=rows.shape[1])
    return unit(rows + 1.5 * direction / np.linalg.norm(direction))


def made() -> Iterator[tuple[str, Rows]]:
    """Regimes, each plain and with a shared direction."""
    zipf = np.random.default_rng(21)
    regimes: dict[str, Rows] = {
        **{f"noise_{dim}": (noise(4_000, dim, 1), np.arange(4_000)) for dim in (8, 64, 256, 1_024)},
        "one": identities([1_500], 256, 0.8, 3),
        "two": identities([700, 700], 256, 0.8, 3),
        "ten_large": identities([300] * 10, 128, 1.2, 8),
        "few_pairs": among(identities([2] * 150, 256, 0.5, 4), 2_700, 5),
        "half_pairs": among(identities([2] * 1_000, 256, 0.5, 6), 2_000, 7),
        "pairs": among(identities([2] * 1_000, 256, 0.5, 6), 1_000, 7),
        "zipf": among(identities(np.minimum(1 + zipf.zipf(1.6, 900), 300), 128, 0.8, 21), 500, 22),
        "zipf_32": identities(np.minimum(1 + zipf.zipf(1.6, 600), 200), 32, 0.5, 23),
        "families": families(),
    }
    for name, (rows, labels) in regimes.items():
        yield name, (rows, labels)
        yield f"{name}_shared", (with_shared_direction(rows), labels)


def real(data: Path) -> Iterator[tuple[str, Rows]]:
    """Real sets, and the situations of ``field_cases``."""
    for name in ("febrl3", "cities_e5", "debian_tfidf", "names_territories"):
        folder = data / name
        rows, labels = np.load(folder / "features.npy").astype(np.float32), np.load(folder / "labels.npy")
        yield name, (rows, labels)
        for count in (40, 75, 100, 130) if name == "cities_e5" else ():
            yield f"cities_{count}", (rows[labels < count], labels[labels < count])
    for name in ("historical_figures", "pooled_faces", "pricerunner"):
        rows, labels, split = read_set(data, name)
        yield f"{name}, test half", (rows[split == 1], labels[split == 1])
    vectors, labels = (np.load(data / "vggface69_faces" / f"{part}.npy") for part in ("features", "labels"))
    for count in (1, 2, 5):
        few = np.isin(labels, np.unique(labels)[:count])
        yield f"vggface, {count} identities", (vectors[few].astype(np.float32), labels[few])
    from sklearn.datasets import load_digits

    digits = load_digits()
    yield "digits", (digits.data, digits.target)
    with tempfile.TemporaryDirectory() as folder:
        with chdir(folder):
            runpy.run_path(str(data.absolute() / "field_cases" / "make.py"))
        for path in sorted(Path(folder).glob("*.npy")):
            yield f"field case {path.stem}", (np.load(path), np.loadtxt(path.with_suffix(".txt"), dtype=np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", help="names, or beginnings of names")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    for name, (rows, labels) in (each for source in (real(arguments.data), made()) for each in source):
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        start = time.perf_counter()
        found = cluster(np.ascontiguousarray(rows), resources={"threads": arguments.threads}).labels
        scores = evaluate(found, labels)
        row = {
            "data": name,
            "rows": len(rows),
            "pairwise_f": round(100 * scores["pairwise_f"], 1),
            "bcubed_f": round(100 * scores["bcubed_f"], 1),
            "clusters": int(found.max()) + 1,
            "identities": len(np.unique(labels)),
            "seconds": round(time.perf_counter() - start, 1),
        }
        record_row("without_labels", {}, row, ("data",), lambda each: each["data"])
        print(row, flush=True)
    print(len(read_rows("without_labels")), "rows recorded")


if __name__ == "__main__":
    main()
