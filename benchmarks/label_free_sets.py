"""The sets of ``without_labels.py``: real ones of many kinds, situations that users describe, and made regimes.

Real sets are whole, or the test half where there is one. ``cities_N`` are the first N cities. ``MiniLM`` sets are the
texts of another set, or sentences drawn from the grammars of a package, embedded by that model. The situations of
``field_cases`` are made by its own script. Made regimes are plain and with a direction that all rows share
(``_shared``).
"""

from __future__ import annotations

import runpy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from datasets import read_set
from embedded_sets import (
    Rows,
    Texts,
    Unavailable,
    cached,
    febrl,
    inventors,
    items,
    minilm,
    package_folder,
    speakers,
    tfidf,
)
from sampled_intents import intents

KINDS = ("records", "products", "faces", "text", "pictures", "voices", "made", "situations")


@dataclass(frozen=True)
class LabelFreeSet:
    """A named set of one of ``KINDS``; ``make`` reads or makes vectors (N, D) and identities (N,)."""

    name: str
    kind: str
    make: Callable[[], Rows]


def label_free_sets(data: Path, cache: Path) -> Iterator[LabelFreeSet]:
    """Name all sets; ``make`` of one may be called until the next is asked for."""
    for sets in (_whole(data), _halves(data), _packaged(cache), _sentences(data, cache), _situations(data), _regimes()):
        yield from sets


def _whole(data: Path) -> Iterator[LabelFreeSet]:
    kinds = {"febrl3": "records", "cities_e5": "text", "debian_tfidf": "text", "names_territories": "text"}
    for name, kind in kinds.items():
        yield LabelFreeSet(name, kind, partial(_read, data / name))
    for count in (40, 75, 100, 130):
        yield LabelFreeSet(f"cities_{count}", "text", partial(_first, data / "cities_e5", count))
    for count in (1, 2, 5):
        yield LabelFreeSet(f"vggface, {count} identities", "faces", partial(_first, data / "vggface69_faces", count))


def _halves(data: Path) -> Iterator[LabelFreeSet]:
    for name, kind in {"historical_figures": "records", "pooled_faces": "faces", "pricerunner": "products"}.items():
        yield LabelFreeSet(f"{name}, test half", kind, partial(_half, data, name))


def _packaged(cache: Path) -> Iterator[LabelFreeSet]:
    for number in (1, 2, 4):
        make = partial(cached, cache, f"febrl{number}", partial(febrl, number), tfidf)
        yield LabelFreeSet(f"febrl{number}", "records", make)
    yield LabelFreeSet("inventors", "records", partial(cached, cache, "inventors", inventors, tfidf))
    yield LabelFreeSet("digits", "pictures", _digits)
    yield LabelFreeSet("japanese_vowels", "voices", speakers)


def _sentences(data: Path, cache: Path) -> Iterator[LabelFreeSet]:
    given = {"pricerunner": ("products", True), "historical_figures": ("records", True),
             "names_territories": ("text", False), "febrl3": ("records", False)}  # fmt: skip
    for name, (kind, half) in given.items():
        make = partial(cached, cache, name, partial(items, data / name, half), minilm)
        yield LabelFreeSet(f"{name}, {'test half, ' if half else ''}MiniLM", kind, make)
    yield LabelFreeSet("home intents, MiniLM", "text", partial(cached, cache, "home_intents", _home_intents, minilm))


def _home_intents() -> Texts:
    return intents(package_folder("home_assistant_intents"))


def _situations(data: Path) -> Iterator[LabelFreeSet]:
    script = (data / "field_cases" / "make.py").absolute()
    if not script.exists():
        yield LabelFreeSet("field cases", "situations", partial(_read, script.parent))
        return
    with tempfile.TemporaryDirectory() as folder:
        with chdir(folder):
            runpy.run_path(str(script))
        for path in sorted(Path(folder).glob("*.npy")):
            yield LabelFreeSet(f"field case {path.stem}", "situations", partial(_read_case, path))


def _regimes() -> Iterator[LabelFreeSet]:
    for name, make in REGIMES.items():
        yield LabelFreeSet(name, "made", make)
        yield LabelFreeSet(f"{name}_shared", "made", partial(_shared, make))


def _read(folder: Path) -> Rows:
    if not folder.exists():
        raise Unavailable(f"{folder.name} is not among the data")
    return np.load(folder / "features.npy").astype(np.float32), np.load(folder / "labels.npy")


def _first(folder: Path, count: int) -> Rows:
    """The rows of the first identities."""
    rows, identities = _read(folder)
    kept = np.isin(identities, np.unique(identities)[:count])
    return rows[kept], identities[kept]


def _half(data: Path, name: str) -> Rows:
    try:
        rows, identities, split = read_set(data, name)
    except FileNotFoundError as error:
        raise Unavailable(f"{Path(error.filename).parent.name} is not among the data") from error
    return rows[split == 1], identities[split == 1]


def _read_case(path: Path) -> Rows:
    return np.load(path), np.loadtxt(path.with_suffix(".txt"), dtype=np.int64)


def _digits() -> Rows:
    package_folder("sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data, digits.target


def unit(rows: np.ndarray) -> np.ndarray:
    """Divide rows by their length, in float32; a row of zeros stays one."""
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def noise(rows: int, dim: int, seed: int) -> np.ndarray:
    """Random directions."""
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


def _shared(make: Callable[[], Rows]) -> Rows:
    """Unit rows plus 1.5 times one random direction: unrelated rows have cosines of about 0.7 then."""
    rows, labels = make()
    direction = np.random.default_rng(9).normal(size=rows.shape[1])
    return unit(rows + 1.5 * direction / np.linalg.norm(direction)), labels


def _zipf() -> list[np.ndarray]:
    """Sizes of the heavy-tailed regimes: both are drawn from one stream."""
    stream = np.random.default_rng(21)
    return [np.minimum(1 + stream.zipf(1.6, 900), 300), np.minimum(1 + stream.zipf(1.6, 600), 200)]


REGIMES: dict[str, Callable[[], Rows]] = {
    "noise_8": lambda: (noise(4_000, 8, 1), np.arange(4_000)),
    "noise_64": lambda: (noise(4_000, 64, 1), np.arange(4_000)),
    "noise_256": lambda: (noise(4_000, 256, 1), np.arange(4_000)),
    "noise_1024": lambda: (noise(4_000, 1_024, 1), np.arange(4_000)),
    "one": lambda: identities([1_500], 256, 0.8, 3),
    "two": lambda: identities([700, 700], 256, 0.8, 3),
    "ten_large": lambda: identities([300] * 10, 128, 1.2, 8),
    "few_pairs": lambda: among(identities([2] * 150, 256, 0.5, 4), 2_700, 5),
    "half_pairs": lambda: among(identities([2] * 1_000, 256, 0.5, 6), 2_000, 7),
    "pairs": lambda: among(identities([2] * 1_000, 256, 0.5, 6), 1_000, 7),
    "zipf": lambda: among(identities(_zipf()[0], 128, 0.8, 21), 500, 22),
    "zipf_32": lambda: identities(_zipf()[1], 32, 0.5, 23),
    "families": families,
}
