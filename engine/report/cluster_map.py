"""The map of a report: clusters as circles, the doubtful ones in another colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from engine.process.terminal import shown
from engine.report.data import MapPoint
from engine.report.document import panel, plural

_WIDE, _HIGH, _EDGE = 1000, 620, 26  # units of the drawing
_LARGEST_RADIUS, _SMALLEST_RADIUS = 22.0, 2.5
_COVERED = 0.15  # of the drawing by all circles, at most
_DOUBTFUL = 0.25  # share of the clusters with the weakest links
_CHARACTERS = 80


def render_map(points: Sequence[MapPoint], num_clusters: int) -> str:
    """Render the map; ``num_clusters``: all clusters of two rows and more."""
    if not points:
        return ""
    largest = max(point.size for point in points)
    weakest = sorted(point.weakest_score for point in points if point.weakest_score is not None)
    doubtful = weakest[int(_DOUBTFUL * len(weakest))] if weakest else 0.0
    parts = sum(point.size / largest for point in points)
    radius = min(_LARGEST_RADIUS, (_COVERED * _WIDE * _HIGH / math.pi / parts) ** 0.5)
    circles = "".join(
        _circle(point, radius / largest**0.5, doubtful) for point in sorted(points, key=lambda each: -each.size)
    )
    shown_of = "" if len(points) == num_clusters else f" The {len(points):,} largest of {num_clusters:,} are shown."
    return panel(
        "Where the clusters lie",
        "A circle is a cluster, its area the number of rows; clusters are near each other where their vectors are, but "
        f"distances far apart say little. <b class=doubtful>Orange</b>: the quarter with the weakest links.{shown_of}",
        f'<svg class="map" viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="map of clusters">{circles}</svg>',
    )


def _circle(point: MapPoint, unit_radius: float, doubtful: float) -> str:
    x = _EDGE + point.x * (_WIDE - 2 * _EDGE)
    y = _EDGE + (1 - point.y) * (_HIGH - 2 * _EDGE)
    radius = max(_SMALLEST_RADIUS, unit_radius * point.size**0.5)
    kind = ' class="b"' if point.weakest_score is not None and point.weakest_score < doubtful else ""
    lines = [f"Cluster {point.label}", f"{point.size:,} {plural(point.size, 'row')}"]
    lines += [] if point.weakest_score is None else [f"weakest link {point.weakest_score:.3f}"]
    lines += [] if not point.text or point.text.startswith("data:") else [shown(point.text[:_CHARACTERS])]
    tip = escape("\n".join(lines))
    return f'<circle{kind} cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" data-tip="{tip}"/>'
