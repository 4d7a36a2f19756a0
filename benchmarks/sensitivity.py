"""What each constant of the default without labels decides: scores with it doubled and halved, one at a time.

    python benchmarks/sensitivity.py --data ../shared/data [--only cities_40 digits] [--constants BELIEVED]

The constants are those of ``engine/clustering/label_free.py`` that the default reads; a share stays below 1, a whole
number stays one. ``SAMPLE_ROWS`` and ``WALKS`` draw samples; the number of ranks behind the mates is part of compiled
kernels and is left out. Writes ``benchmarks/records/sensitivity.json``, row by row, and the table of
``docs/methods/constants.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from label_free_sets import label_free_sets
from recording import record_row

from engine import api, evaluate
from engine.clustering import label_free

RECORD = "sensitivity"
SETS = ("cities_40", "cities_75", "digits", "febrl1", "japanese_vowels", "few_pairs", "half_pairs", "zipf_32")
CONSTANTS = (
    "LEAST_CLUSTERS", "LEAST_EXPLAINED", "BELIEVED", "LEAST_TRUST", "TRANSITIVE", "LOCAL_RANK", "MANY_COPIES",
    "LESS_TRUST", "NEAR_COPY", "NOTHING_FOUND", "ODDS_IN_DOUBT", "STEP_BANDWIDTH", "CODELENGTH_RISE",
)  # fmt: skip
_SHARES = {"LEAST_EXPLAINED", "BELIEVED", "TRANSITIVE", "MANY_COPIES", "LESS_TRUST", "NEAR_COPY", "NOTHING_FOUND"}
AS_IS = "as it is"


def changed(name: str, factor: float) -> float:
    """The constant times a factor, of its own kind."""
    value = getattr(label_free, name)
    found = value * factor
    return round(found) if isinstance(value, int) else min(found, 0.99) if name in _SHARES else found


@contextmanager
def constant(name: str, value: Any) -> Iterator[None]:
    """Give a constant another value in every module that has it."""
    before = getattr(label_free, name)
    modules = [each for at, each in list(sys.modules.items()) if at.startswith("engine") and hasattr(each, name)]
    for each in modules:
        setattr(each, name, value)
    try:
        yield
    finally:
        for each in modules:
            setattr(each, name, before)


def measure(of: str, vectors: np.ndarray, identities: np.ndarray, name: str, value: Any, threads: int) -> None:
    """Record both F of a set, with a constant at a value."""
    labels = api.cluster(np.ascontiguousarray(vectors), resources={"threads": threads}, progress=False).labels
    found = evaluate(labels, identities)
    scores = [round(found[score], 4) for score in ("pairwise_f", "bcubed_f")]
    row = {"set": of, "constant": name, "value": value, "scores": scores}
    record_row(RECORD, {}, row, ("set", "constant", "value"), lambda row: (row["set"], row["constant"], row["value"]))


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each value of each constant, a column for each set."""
    sets = sorted({row["set"] for row in rows})
    found = {(row["set"], row["constant"], row["value"]): row["scores"] for row in rows}
    lines = [f"| constant | value | {' | '.join(sets)} |", "|---" * (2 + len(sets)) + "|"]
    for name, value in [(AS_IS, 0), *sorted({key[1:] for key in found if key[1] != AS_IS})]:
        cells = []
        for each in sets:
            scores, before = found.get((each, name, value)), found.get((each, AS_IS, 0))
            equal = name != AS_IS and scores == before
            cells.append("–" if scores is None else "=" if equal else " / ".join(f"{100 * x:.1f}" for x in scores))
        usual = "" if name == AS_IS else f"{value:g} ({getattr(label_free, name):g})"
        lines.append(f"| {name} | {usual} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure each set as it is, then with each constant changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/asterism-benchmarks")
    parser.add_argument("--only", nargs="*", default=SETS)
    parser.add_argument("--constants", nargs="*", default=CONSTANTS)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for each in label_free_sets(given.data, given.cache):
        if each.name not in given.only:
            continue
        vectors, identities = each.make()
        measure(each.name, vectors, identities, AS_IS, 0, given.threads)
        for name in given.constants:
            for factor in (0.5, 2.0):
                value = changed(name, factor)
                with constant(name, value):
                    measure(each.name, vectors, identities, name, value, given.threads)


if __name__ == "__main__":
    main()
