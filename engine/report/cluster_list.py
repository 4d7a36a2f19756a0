"""The list of clusters of two rows and more: packed into the page, searched, sorted and paged by its script."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.report.data import ClusterList
from engine.report.document import panel

_NONE = 255  # stands for a score that there is not
_COLUMNS = (("label", "cluster"), ("size", "rows"), ("cohesion", "mean"), ("weakest", "weakest link"))


def pack_clusters(
    labels_C: NDArray[np.int64], sizes_C: NDArray[np.int64], cohesion_C: NDArray[Any], weakest_C: NDArray[Any]
) -> ClusterList:
    """Pack the clusters of two rows and more, by ascending label.

    Steps between labels and sizes are uint32, scores in [0, 1] uint8 in steps of 1/254, NaN 255; little-endian, one
    column after the other, zlib, base64. A million clusters take some 3 MB.
    """
    several = sizes_C > 1
    steps = np.diff(labels_C[several], prepend=0).astype("<u4")
    scores = [_quantised(column[several]) for column in (cohesion_C, weakest_C)]
    columns = [steps.tobytes(), sizes_C[several].astype("<u4").tobytes(), *(each.tobytes() for each in scores)]
    packed = base64.b64encode(zlib.compress(b"".join(columns), 9)).decode()
    return ClusterList(int(several.sum()), packed)


def render_list(clusters: ClusterList, score: str) -> str:
    """Render the frame that the page's script fills; ``score`` names the numbers."""
    titles = {"cohesion": f"mean {score}"}
    head = "".join(
        f'<th><button type="button" data-sort="{name}">{titles.get(name, title)}</button></th>'
        for name, title in _COLUMNS
    )
    return panel(
        f"All {clusters.count:,} clusters of two rows and more",
        "The most doubtful first: those that would fall apart at the lowest score. Click a heading to sort.",
        f'<div class="list" data-count="{clusters.count}" data-clusters="{clusters.packed}">'
        '<div class="list-bar"><input type="search" inputmode="numeric" placeholder="cluster number" '
        'aria-label="Cluster number"><span><button type="button" data-step="-1" aria-label="Previous page">‹</button>'
        '<output></output><button type="button" data-step="1" aria-label="Next page">›</button></span></div>'
        f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead><tbody></tbody></table></div></div>',
    )


def _quantised(scores: NDArray[Any]) -> NDArray[np.uint8]:
    whole = np.rint(np.clip(np.nan_to_num(scores), 0, 1) * (_NONE - 1))
    return np.where(np.isnan(scores), _NONE, whole).astype(np.uint8)
