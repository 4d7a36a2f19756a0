"""What ``without_labels.py`` has recorded, as tables in Markdown."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from calibration import deviations
from label_free_sets import KINDS
from outside_methods import METHODS

ENGINE = "asterism"
NONE = "–"

Row = dict[str, Any]
Cells = dict[str, dict[str, Row]]  # by set, by method: rows that have scores


def tables(rows: list[Row], methods: list[str]) -> str:
    """Scores by set, how often the engine is best and worst, means with one kind left out, and calibration."""
    cells: Cells = defaultdict(dict)
    for row in rows:
        if row["method"] in methods and "left_out" not in row:
            cells[row["data"]][row["method"]] = row
    shown = [method for method in methods if any(method in found for found in cells.values())]
    parts = [_scores(cells, shown), _places(cells), _left_out_kinds(cells, shown), _calibration(cells), _reasons(rows)]
    return "\n\n".join(part for part in parts if part)


def both(row: Row) -> float:
    """The mean of pairwise and BCubed F."""
    return (row["pairwise_f"] + row["bcubed_f"]) / 2


def title(method: str) -> str:
    """Name a method as a column's head."""
    return METHODS[method].title if method in METHODS else method


def _scores(cells: Cells, methods: list[str]) -> str:
    """Pairwise F / BCubed F; the best of a line by the mean of both is bold."""
    lines = _head(["set", "rows", "identities", *map(title, methods)])
    for kind in KINDS:
        named = {name: found for name, found in sorted(cells.items()) if _kind(found) == kind}
        if named:
            lines.append(_line([f"**{kind}**", *[""] * (len(methods) + 2)]))
        for name, found in named.items():
            best, about = max(map(both, found.values())), next(iter(found.values()))
            said = [_cell(found.get(method), best) for method in methods]
            lines.append(_line([name, f"{about['rows']:,}", f"{about['identities']:,}", *said]))
    return "\n".join(lines)


def _cell(row: Row | None, best: float) -> str:
    if row is None:
        return NONE
    said = f"{row['pairwise_f']:.1f} / {row['bcubed_f']:.1f}"
    return f"**{said}**" if both(row) == best else said


def _places(cells: Cells) -> str:
    """On how many sets of each kind the engine is best, and worst; of equals all are best, and none is worst."""
    lines = _head(["kind", "sets", f"{ENGINE} best", f"{ENGINE} worst", "worst on"])
    compared = {name: found for name, found in sorted(cells.items()) if ENGINE in found and len(found) > 1}
    if not compared:
        return ""
    for kind in (*KINDS, "all"):
        named = {name: found for name, found in compared.items() if kind in ("all", _kind(found))}
        best = [name for name, found in named.items() if both(found[ENGINE]) == max(map(both, found.values()))]
        worst = [name for name, found in named.items() if _worst(found)]
        if named:
            said = ", ".join(worst) or "never"
            lines.append(_line([kind, str(len(named)), str(len(best)), str(len(worst)), "" if kind == "all" else said]))
    return "\n".join(lines)


def _worst(found: dict[str, Row]) -> bool:
    others = [both(row) for method, row in found.items() if method != ENGINE]
    return both(found[ENGINE]) < min(others)


def _left_out_kinds(cells: Cells, methods: list[str]) -> str:
    """Means of both F over the sets of all other kinds, of which a method need not have each.

    So the number of its sets stands beside it, and how far it is above (+) or below the engine on the same sets.
    """
    lines = _head(["mean of both F without", *map(title, methods)])
    kinds = [kind for kind in KINDS if any(_kind(found) == kind for found in cells.values())]
    for left_out in ("no kind", *kinds):
        named = [found for found in cells.values() if _kind(found) != left_out]
        lines.append(_line([left_out, *(_mean(named, method) for method in methods)]))
    return "\n".join(lines)


def _mean(named: list[dict[str, Row]], method: str) -> str:
    having = [found for found in named if method in found]
    if not having:
        return NONE
    said = f"{np.mean([both(found[method]) for found in having]):.1f} ({len(having)})"
    pairs = [(both(found[method]), both(found[ENGINE])) for found in having if ENGINE in found]
    if method == ENGINE or not pairs:
        return said
    return f"{said}, {np.mean([other - own for other, own in pairs]):+.1f}"


def _calibration(cells: Cells) -> str:
    """Where probabilities of edges are furthest from the share of true ones, by set."""
    lines = _head(["set", "true share less probability", "at mean probability", "share of edges"])
    for name, methods in sorted(cells.items()):
        found = methods.get(ENGINE, {}).get("calibration")
        if found:
            gaps = deviations(found)
            place = int(np.argmax(np.abs(gaps)))
            lines.append(
                _line([name, f"{gaps[place]:+.3f}", *(f"{found[key][place]:.3f}" for key in ("mean", "share"))])
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def _reasons(rows: list[Row]) -> str:
    """A line for each set that a method was not run on, or did not finish."""
    return "\n".join(f"{title(row['method'])} on {row['data']}: {row['left_out']}" for row in rows if "left_out" in row)


def _kind(found: dict[str, Row]) -> str:
    return next(iter(found.values()))["kind"]


def _head(names: list[str]) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
