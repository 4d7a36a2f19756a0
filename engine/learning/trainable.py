"""Whether labels are enough to learn from: known before a graph is built."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import DataError
from engine.learning.held_out import hold_out, split_identities

Array = np.ndarray[Any, Any]

FEWEST_IDENTITIES = 4  # that identities are held out of


def refuse_untrainable(path: str, identities_N: Array, share: float, seed: int, *, in_halves: bool) -> None:
    """Raise ``DataError`` for labels (N,) that no training can learn from, or choose thresholds by.

    ``share`` of the identities is held out, as training draws it from ``seed``. ``in_halves``: either half of the
    others is learned from alone, as by the trees.
    """
    known_N = identities_N >= 0
    count = len(np.unique(identities_N[known_N]))
    if count < FEWEST_IDENTITIES:
        raise DataError(
            f"{path}: labels of {count} {'identity' if count == 1 else 'identities'}; training holds some out, so it "
            f"needs at least {FEWEST_IDENTITIES}, of several rows each"
        )
    held_out_N = hold_out(identities_N, share, seed)
    parts = {"held out": (held_out_N, 1)}
    if in_halves:
        halves_N = split_identities(identities_N, held_out_N, seed)
        parts |= {f"in half {half + 1} of the others": (halves_N == half, 2) for half in (0, 1)}
    else:
        parts |= {"not held out": (~held_out_N, 1)}
    for where, (rows_N, fewest) in parts.items():
        sizes = np.unique(identities_N[rows_N & known_N], return_counts=True)[1]
        if len(sizes) < fewest or sizes.max(initial=0) < 2:
            raise DataError(
                f"{path}: of {count:,} identities, {len(sizes)} {'is' if len(sizes) == 1 else 'are'} {where}, and the "
                f"largest has {sizes.max(initial=0)} row(s); training needs at least {fewest} there and one of 2 rows: "
                f"label more identities of several rows each"
            )
