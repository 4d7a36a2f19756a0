"""CDP with a committee of other embeddings: ``python benchmarks/committee.py --data ../shared/data``.

The committee of a text set is made here of its ``items.txt``: tf-idf of character pairs, of character triples to
quintuples, of words and of word pairs, each fitted to all items, without labels, and projected to 256 dimensions by
random signs. The base is the set's own embedding. Thresholds and size caps are chosen on the train identities, test
identities are scored: the base alone, votes of one member up to all, the mediator without and with the committee.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from datasets import read_set
from recording import record_row
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.random_projection import SparseRandomProjection

from engine import compare

TEXTS = ("historical_figures", "pricerunner")
DIM = 256
KEY = ("data", "method", "members", "accept", "k")
MEMBERS: tuple[dict[str, Any], ...] = (
    {"analyzer": "char_wb", "ngram_range": (2, 2)},
    {"analyzer": "char_wb", "ngram_range": (3, 5), "min_df": 2},
    {"analyzer": "word", "ngram_range": (1, 1), "token_pattern": r"\w+"},
    {"analyzer": "word", "ngram_range": (2, 2), "token_pattern": r"\w+", "min_df": 2},
)


def write_committee(data: Path, name: str, work: Path) -> list[str]:
    """Embed the items in each member's way; returns the files."""
    items = (data / name / "items.txt").read_text().splitlines()
    paths = []
    for number, given in enumerate(MEMBERS):
        words = TfidfVectorizer(sublinear_tf=True, **given)
        signs = SparseRandomProjection(DIM, density=1.0, dense_output=True, random_state=number)
        vectors = signs.fit_transform(words.fit_transform(items)).astype(np.float32)
        vectors[~vectors.any(axis=1)] = 1 / np.sqrt(DIM)  # an item of unknown words alone
        paths.append(str(work / f"member-{number}.npy"))
        np.save(paths[-1], vectors)
    return paths


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=TEXTS, action="append")
    parser.add_argument("--k", type=int, default=15, help="neighbours, of base and committee (published: 15)")
    args = parser.parse_args()
    for name in args.only or TEXTS:
        with tempfile.TemporaryDirectory(prefix="asterism-committee-") as folder:
            work = Path(folder)
            features, labels, split = read_set(args.data, name)
            for part, array in (("features", features), ("labels", labels), ("split", split)):
                np.save(work / f"{part}.npy", array)
            committee = {"cdp.committee": write_committee(args.data, name, work)}
            votes = [("cdp", {**committee, "cdp.accept": accept}) for accept in range(1, len(MEMBERS) + 1)]
            for method, given in [("cdp", {}), *votes, ("cdp_mediator", {}), ("cdp_mediator", committee)]:
                (row,) = compare(
                    work / "features.npy", work / "labels.npy", work / "out", [method], split=work / "split.npy",
                    settings={**given, "knn.k": args.k}, seed=0,
                )  # fmt: skip
                votes_asked, members = given.get("cdp.accept", 0), len(given.get("cdp.committee", ()))
                found = {
                    "data": name, "method": method, "members": members, "accept": votes_asked, "k": args.k,
                    **row.scores, "point": row.point, "train_seconds": row.train_seconds,
                    "run_seconds": row.run_seconds, "peak_bytes": row.peak_bytes,
                }  # fmt: skip
                record_row("committee", {"dim": DIM}, found, KEY, lambda each: [str(each[part]) for part in KEY])
                print(*(found[part] for part in KEY), *(f"{row.scores[f]:.3f}" for f in ("pairwise_f", "bcubed_f")))


if __name__ == "__main__":
    main()
