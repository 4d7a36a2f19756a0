"""The page of a comparison: one table of methods, with bars, that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine.report.document import page

_SCORES = (
    ("pairwise_f", "F"),
    ("pairwise_precision", "precision"),
    ("pairwise_recall", "recall"),
    ("bcubed_f", "F"),
    ("bcubed_precision", "precision"),
    ("bcubed_recall", "recall"),
    ("nmi", "NMI"),
)


@dataclass(frozen=True)
class ComparisonRow:
    """One method: ``scores`` as ``evaluate`` gives them, seconds of the run and of training, most memory of a stage.

    ``missing``: why there are none.
    """

    name: str
    scores: Mapping[str, float] = field(default_factory=dict)
    run_seconds: float = 0.0
    train_seconds: float = 0.0
    peak_bytes: int = 0
    point: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""


def render_comparison(
    source: Path,
    rows: Sequence[ComparisonRow],
    counts: Mapping[str, int],
    found: Mapping[str, Any],
    reports: Mapping[str, str],
) -> str:
    """Render the page: methods by pairwise F, those without a result last, with what each says.

    ``counts``: ``train_rows``, ``test_rows`` and ``unknown_rows`` of these. ``found``: ``seed``, ``settings``,
    ``written``, ``hardware`` and ``versions``. ``reports``: where each method's report is, beside the page.
    """
    done = sorted((row for row in rows if not row.missing), key=lambda row: -row.scores["pairwise_f"])
    best = {name: max((row.scores[name] for row in done), default=0.0) for name, _ in _SCORES}
    body = "".join(_row(row, best, reports.get(row.name)) for row in done)
    head = "".join(f"<th{' class=edge' if name in _EDGES else ''}>{word}</th>" for name, word in _SCORES)
    table = (
        '<div class=scroll><table class="metrics"><thead><tr><th></th><th colspan=3 class=group>Pairwise</th>'
        "<th colspan=3 class=group>BCubed</th><th colspan=6></th></tr>"
        f"<tr><th></th>{head}<th class=edge>clusters</th><th>singletons</th><th class=edge>train</th><th>run</th>"
        f"<th>memory</th></tr></thead><tbody>{body}</tbody></table></div>"
    )
    missing = "".join(
        f'<li class="warning">{escape(row.name)}: {escape(row.missing)}</li>' for row in rows if row.missing
    )
    bars = "".join(
        f"<div class=versus><span>{escape(row.name)}</span>"
        f'<i class=a style="width:{100 * row.scores["pairwise_f"]:.1f}%"></i>'
        f'<i class=b style="width:{100 * row.scores["bcubed_f"]:.1f}%"></i></div>'
        for row in done
    )
    unknown = f", {counts['unknown_rows']:,} of them of unknown identity, not scored" if counts["unknown_rows"] else ""
    facts = {
        "Source": str(source),
        "Rows": f"{counts['train_rows']:,} to train on, {counts['test_rows']:,} to cluster{unknown}",
        "Seed": str(found["seed"]),
        "Settings": _list(found["settings"], " = ") or "the defaults",
        "Written": found["written"],
        "Machine": _list(found["hardware"]),
        "Versions": _list(found["versions"]),
    }
    what = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    title = f"{'/'.join(source.parts[-2:])}: {counts['test_rows']:,} rows"
    top = f'<p class="eyebrow">Comparison</p><h1>{escape(title)}</h1><dl class="facts">{what}</dl>' + (
        f'<ul class="notes">{missing}</ul>' if missing else ""
    )
    sections = (
        '<section id="scores"><h2>Scores</h2><div class="panel"><h3>Against the identities of the test part</h3>'
        f'<p class="lead">Percent. Trained, and every parameter chosen, on {counts["train_rows"]:,} rows of other '
        "identities. Seconds are those of all tasks, each method's in processes of its own; stages that methods share "
        "count for each. The best of a column is bold; a name leads to the method's report.</p>"
        f'{table}</div></section><section id="bars"><h2>At a glance</h2><div class="panel"><h3>F of each method</h3>'
        '<ul class="legend"><li class="a"><i></i>pairwise</li><li class="b"><i></i>BCubed</li></ul>'
        f"{bars}</div></section>"
    )
    return page(f"{title} · Asterism", (("scores", "Scores"), ("bars", "At a glance")), top + sections)


_EDGES = ("pairwise_f", "bcubed_f", "nmi")


def _list(values: Mapping[str, Any], between: str = " ") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in values.items())


def _row(row: ComparisonRow, best: Mapping[str, float], report: str | None) -> str:
    cells = ""
    for name, _ in _SCORES:
        value = row.scores[name]
        shown = f"{100 * value:.1f}"
        shown = f"<b>{shown}</b>" if value >= best[name] else shown
        cells += f"<td{' class=edge' if name in _EDGES else ''}>{shown}</td>"
    said = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in row.point.items() if value != "own")
    name = escape(row.name)
    name = f'<a href="{escape(quote(report))}">{name}</a>' if report else name
    return (
        f"<tr><th>{name}<small>{escape(said)}</small></th>{cells}"
        f"<td class=edge>{row.scores['num_clusters']:,.0f}</td><td>{row.scores['num_singletons']:,.0f}</td>"
        f"<td class=edge>{_seconds(row.train_seconds)}</td><td>{_seconds(row.run_seconds)}</td>"
        f"<td>{row.peak_bytes / 1e9:.2f} GB</td></tr>"
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("_", " ")


def _seconds(seconds: float) -> str:
    if not seconds:
        return "–"
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
