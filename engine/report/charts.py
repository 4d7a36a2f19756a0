"""Charts as HTML around inline SVG: a plot stretches to its box, and its text keeps its size on any screen.

Coordinates inside a plot are thousandths of its width and height, y upwards. Every mark has its numbers in
``data-tip``, and every chart has them in a table below. This module escapes all text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Number = float | int
MAX_Y_TICKS = 6
MAX_X_TICKS = 8

_FEW_CLASSES = 7  # whose names fit beside each other on a phone


@dataclass(frozen=True)
class Series:
    """A named sequence of values; ``style`` is a class of the style sheet: ``a``, ``b``, ``c`` or ``ink``."""

    name: str
    values: Sequence[Number]
    style: str


@dataclass(frozen=True)
class Marker:
    """A vertical line at ``x``, in the units of the x axis."""

    x: float
    name: str


def bars_by_class(
    classes: Sequence[str], values: Sequence[int], details: Sequence[str], y_name: str, x_name: str
) -> str:
    """Draw one bar per named class on a logarithmic scale, with its count above; a phone names a few of many."""
    scale = _LogScale(0.6, max([*values, 1]))
    step = 1000 / max(len(classes), 1)
    every = max(2, -(-len(classes) // _FEW_CLASSES))
    marks, labels, ticks = [], [], []
    for i, (name, value, detail) in enumerate(zip(classes, values, details, strict=True)):
        middle = (i + 0.5) * step
        minor = i % every > 0
        ticks.append((middle, name, minor))
        if value:
            top = scale(value)
            width = min(step * 0.72, 90)
            marks.append(_rect(middle - width / 2, 0, width, top, "a"))
            crowded = minor and len(classes) > _FEW_CLASSES
            labels.append(_at("value minor" if crowded else "value", middle, top, short(value)))
        marks.append(_hit(i * step, step, detail))
    rows = [[name, f"{value:,}"] for name, value in zip(classes, values, strict=True)]
    plot = _plot(f"{y_name} by {x_name}", marks, scale.ticks(), ticks, y_name, x_name, "".join(labels))
    return _figure(plot, "", _numbers([x_name, y_name], rows))


def histogram(
    bin_edges: Sequence[float], series: Sequence[Series], y_name: str, x_name: str, marker: Marker | None = None
) -> str:
    """Draw stacked counts over numeric bins (``len(bin_edges) == bins + 1``), the first series at the bottom."""
    low, high = bin_edges[0], bin_edges[-1]
    totals = [sum(int(s.values[i]) for s in series) for i in range(len(bin_edges) - 1)]
    scale = _LinearScale(max([*totals, 1]))
    marks, rows = [], []
    for i, total in enumerate(totals):
        left, right = _along(bin_edges[i], low, high), _along(bin_edges[i + 1], low, high)
        base = 0
        span = f"{decimal(bin_edges[i])} to {decimal(bin_edges[i + 1])}"
        for s in series:
            value = int(s.values[i])
            if value:
                bottom, top = scale(base), scale(base + value)
                marks.append(_rect(left + 1, bottom, max(right - left - 2, 1), top - bottom, s.style))
            base += value
        parts = [f"{s.name}: {int(s.values[i]):,}" for s in series]
        marks.append(_hit(left, right - left, "\n".join([f"{x_name} {span}", *parts])))
        rows.append([span, *(f"{int(s.values[i]):,}" for s in series), *([f"{total:,}"] if len(series) > 1 else [])])
    ticks = [(_along(x, low, high), decimal(x), False) for x in _nice_ticks(low, high)]
    plot = _plot(f"{y_name} by {x_name}", marks, scale.ticks(), ticks, y_name, x_name, _marker(marker, low, high))
    head = [x_name, *(s.name for s in series), *(["total"] if len(series) > 1 else [])]
    return _figure(plot, _legend(series) if len(series) > 1 else "", _numbers(head, rows))


def lines(
    xs: Sequence[float],
    series: Sequence[Series],
    y_name: str,
    x_name: str,
    marker: Marker | None = None,
    percent: bool = False,
) -> str:
    """Draw series over ascending ``xs``: counts on a logarithmic scale, or fractions as percentages from 0 to 100."""
    low, high = xs[0], xs[-1]
    values = [v for s in series for v in s.values]
    scale = _PercentScale() if percent else _LogScale(1, max([*values, 2]))
    marks, rows = [], []
    places = [_along(x, low, high) for x in xs]
    for s in series:
        points = [(x, scale(v)) for x, v in zip(places, s.values, strict=True)]
        path = " ".join(f"{x:.1f},{1000 - y:.1f}" for x, y in points)
        dots = "".join(f"M{x:.1f} {1000 - y:.1f}h0" for x, y in points)
        marks.append(f'<polyline class="line {s.style}" points="{path}"/><path class="dots {s.style}" d="{dots}"/>')
    for i, x in enumerate(xs):
        left = 0 if i == 0 else (places[i - 1] + places[i]) / 2
        right = 1000 if i == len(xs) - 1 else (places[i] + places[i + 1]) / 2
        tip = [f"{x_name} {decimal(x)}", *(f"{s.name}: {_reading(s.values[i], percent)}" for s in series)]
        marks.append(_hit(left, right - left, "\n".join(tip)))
        rows.append([decimal(x), *(_reading(s.values[i], percent) for s in series)])
    ticks = [(_along(x, low, high), decimal(x), False) for x in _nice_ticks(low, high)]
    plot = _plot(f"{y_name} by {x_name}", marks, scale.ticks(), ticks, y_name, x_name, _marker(marker, low, high))
    return _figure(plot, _legend(series), _numbers([x_name, *(s.name for s in series)], rows))


def short(value: Number) -> str:
    """Write a count in about four characters: 950, 1.2k, 38k, 5.2M."""
    if value >= 1000:
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if value >= size * 0.9995:
                scaled = value / size
                return (f"{scaled:.1f}".removesuffix(".0") if scaled < 9.95 else f"{scaled:.0f}") + unit
    return f"{value:g}"


def decimal(value: float) -> str:
    """Write a number with at most four decimals and no trailing zeros."""
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "\N{MINUS SIGN}")


def _reading(value: Number, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:,}"


class _LinearScale:
    def __init__(self, largest: Number) -> None:
        step = max(1, _nice_step(largest / 4))
        self.top = math.ceil(largest / step) * step
        self._marks = [step * i for i in range(round(self.top / step) + 1)]

    def __call__(self, value: Number) -> float:
        return 1000 * value / self.top

    def ticks(self) -> list[tuple[float, str]]:
        return [(self(v), short(v)) for v in self._marks]


class _PercentScale:
    def __call__(self, value: Number) -> float:
        return 1000 * value

    def ticks(self) -> list[tuple[float, str]]:
        return [(250.0 * i, f"{25 * i} %") for i in range(5)]


class _LogScale:
    def __init__(self, bottom: float, largest: Number) -> None:
        self.bottom = math.log10(bottom)
        self.top = math.log10(largest) + 0.2

    def __call__(self, value: Number) -> float:
        if value <= 0:
            return 0.0
        return max(0.0, 1000 * (math.log10(value) - self.bottom) / (self.top - self.bottom))

    def ticks(self) -> list[tuple[float, str]]:
        powers = range(math.floor(self.top) + 1)
        every = max(1, math.ceil(len(powers) / MAX_Y_TICKS))
        return [(self(10**p), short(10**p)) for p in powers[::every]]


def _nice_step(rough: float) -> float:
    power = 10 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)


def _nice_ticks(low: float, high: float) -> list[float]:
    if high <= low:
        return [low]
    step = _nice_step((high - low) / MAX_X_TICKS)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [i * step for i in range(first, last + 1)]


def _along(x: float, low: float, high: float) -> float:
    return 1000 * (x - low) / (high - low) if high > low else 500.0


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    return (
        f'<rect class="bar {style}" x="{x:.1f}" y="{1000 - y - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def _hit(x: float, width: float, tip: str) -> str:
    return f'<rect class="hit" x="{x:.1f}" y="0" width="{width:.1f}" height="1000" data-tip="{escape(tip)}"/>'


def _at(style: str, x: float, y: float, text: str) -> str:
    return f'<span class="{style}" style="left:{x / 10:.2f}%;bottom:{y / 10:.2f}%">{escape(text)}</span>'


def _marker(marker: Marker | None, low: float, high: float) -> str:
    if marker is None or not low <= marker.x <= high:
        return ""
    x = _along(marker.x, low, high)
    side = " left" if x > 600 else ""
    return (
        f'<span class="marker{side}" style="left:{x / 10:.2f}%"><b>{escape(marker.name)} {decimal(marker.x)}</b></span>'
    )


def _plot(
    title: str,
    marks: Sequence[str],
    y_ticks: Sequence[tuple[float, str]],
    x_ticks: Sequence[tuple[float, str, bool]],
    y_name: str,
    x_name: str,
    above: str,
) -> str:
    grid = "".join(f'<line class="grid" x1="0" x2="1000" y1="{1000 - y:.1f}" y2="{1000 - y:.1f}"/>' for y, _ in y_ticks)
    y_labels = "".join(f'<span style="bottom:{y / 10:.2f}%">{escape(text)}</span>' for y, text in y_ticks)
    x_labels = "".join(
        f'<span{" class=minor" if minor else ""} style="left:{x / 10:.2f}%">{escape(text)}</span>'
        for x, text, minor in x_ticks
    )
    return (
        f'<div class="y-name">{escape(y_name)}</div>'
        f'<div class="plot"><div class="y">{y_labels}</div><div class="area">'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">'
        f"{grid}{''.join(marks)}</svg>{above}</div>"
        f'<div class="x">{x_labels}</div></div><div class="x-name">{escape(x_name)}</div>'
    )


def _legend(series: Sequence[Series]) -> str:
    keys = "".join(f'<li><i class="{s.style}"></i>{escape(s.name)}</li>' for s in series)
    return f'<ul class="legend">{keys}</ul>'


def _numbers(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        "<details><summary>Numbers</summary><div class=scroll>"
        f"<table class=numbers><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _figure(plot: str, legend: str, numbers: str) -> str:
    return f'<figure class="chart">{legend}{plot}{numbers}</figure>'
