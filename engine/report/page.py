"""The report of a run: one HTML file without network requests, with the result, its certainty and its cost.

This module and ``charts`` escape text from data sets, file names and settings. A content policy of the page forbids
every request and every script but its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from engine.clustering.matching import EVENTS
from engine.evaluation.sweep import SweepRow
from engine.report import charts
from engine.report.charts import Marker, Series, decimal, short
from engine.report.cluster_list import render_list
from engine.report.cluster_map import render_map
from engine.report.data import Change, MetricsRow, RecallEstimate, ReportData, StageRow, ValueHistogram
from engine.report.document import duration_words, meter, page, panel, percent, plural, size_words
from engine.report.gallery import render_gallery

__all__ = ["ReportData", "headline", "render_report"]

_COLUMNS = {
    "pairwise_f": "F",
    "pairwise_precision": "precision",
    "pairwise_recall": "recall",
    "bcubed_f": "F",
    "bcubed_precision": "precision",
    "bcubed_recall": "recall",
    "nmi": "NMI",
    "ari": "ARI",
    "num_clusters": "clusters",
    "num_singletons": "singletons",
}
_COUNTS = ("num_clusters", "num_singletons")
_MANY_CLASSES = 12  # of sizes: their ends have no room beside each other
_MANY_STAGES, _SHORT = 12, 0.01  # of so many, those of less than this share of the time are folded away


def headline(num_rows: int, num_clusters: int, num_singletons: int, largest: int) -> str:
    """Return the result as one plain sentence."""
    several = num_clusters - num_singletons
    count = f"{num_singletons:,}" if num_singletons else "no"
    alone = f"{count} {'row is' if num_singletons < 2 else 'rows are'} alone"
    if not several:
        return f"{num_rows:,} {plural(num_rows, 'row')}: none belongs to another"
    return (
        f"{num_rows:,} {plural(num_rows, 'row')}: {several:,} {plural(several, 'cluster')} of two and more, "
        f"the largest of {largest:,}; {alone}"
    )


def render_report(data: ReportData) -> str:
    """Render one self-contained HTML page, the same bytes for the same data.

    Sections without data are left out. Light or dark follows the reader's system, ``?theme=dark`` or the button.
    """
    sections = [
        ("quality", "Quality", _quality(data.metrics)),
        ("changes", "Changes", _changes(data.changes)),
        ("galleries", "Galleries", _galleries(data)),
        ("clusters", "Clusters", _sizes(data)),
        ("list", "List", render_list(data.clusters, data.score_name) if data.clusters and data.clusters.count else ""),
        ("map", "Map", render_map(data.map, data.num_clusters - data.num_singletons)),
        ("certainty", "Certainty", _certainty(data)),
        ("precision", "Precision", _curve(data)),
        ("graph", "Graph", _graph(data)),
        ("thresholds", "Thresholds", _sweep(data)),
        ("run", "Run", _run(data)),
    ]
    filled = [(name, title, body) for name, title, body in sections if body]
    body = "".join(
        f'<section id="{name}"><details class="fold" open><summary><h2>{title}</h2></summary>{body}</details></section>'
        for name, title, body in filled
    )
    links = [(name, title) for name, title, _ in filled]
    return page(f"{data.title} · Asterism", links, _top(data) + body)


def _top(data: ReportData) -> str:
    clustered = data.num_rows - data.num_singletons
    seconds = sum(stage.seconds for stage in data.stages)
    peak = max((stage.peak_memory_bytes or 0 for stage in data.stages), default=0)
    tiles = [
        ("Rows", f"{data.num_rows:,}", f"{data.num_dimensions} dimensions"),
        ("Clusters", f"{data.num_clusters:,}", f"{data.num_clusters - data.num_singletons:,} of 2 rows or more"),
        ("Singletons", f"{data.num_singletons:,}", f"{percent(data.num_singletons, data.num_rows)} of rows"),
        ("Largest", f"{data.largest:,}", f"{percent(data.largest, data.num_rows)} of rows"),
    ]
    if clustered and data.num_clusters > data.num_singletons:
        mean = clustered / (data.num_clusters - data.num_singletons)
        tiles.append(("Mean size", f"{mean:.1f}", "singletons left out"))
    if seconds:
        tiles.append(("Time", duration_words(seconds), f"peak memory {size_words(peak)}" if peak else "all stages"))
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd><dd class=sub>{escape(sub)}</dd></div>"
        for name, value, sub in tiles
    )
    facts = {"Source": data.source, "Method": data.method, "Model": data.model, "Operating point": data.operating_point}
    what = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items() if value)
    notes = "".join(f'<li class="{kind}">{escape(text)}</li>' for kind, text in _remarks(data))
    return (
        f'<p class="eyebrow">{escape(data.title)}</p>'
        f"<h1>{escape(headline(data.num_rows, data.num_clusters, data.num_singletons, data.largest))}</h1>"
        f'{_answer(data)}<dl class="facts">{what}</dl><dl class="tiles">{cells}</dl>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _answer(data: ReportData) -> str:
    """Say what to expect, what to look at first, and what to type for fewer errors of either kind."""
    said = []
    if data.expected_errors and data.scores and data.scores.pruned:
        wrong, missed = (_about(count) for count in data.expected_errors)
        said.append(
            f"As far as the run itself can tell, {wrong} of the {sum(data.scores.kept):,} joined pairs of neighbours "
            f"are <b>wrong merges</b>, and {missed} of the pairs left apart are <b>missed</b>."
        )
    chosen = [(number, gallery) for number, gallery in enumerate(data.galleries) if gallery.clusters]
    if chosen:
        links = ", ".join(f'<a href="#gallery-{n}">{escape(gallery.title.lower())}</a>' for n, gallery in chosen)
        said.append(f"<b>Look first</b> at {links}.")
    if data.operating_point and (data.curve or data.probabilities):
        fewer, more = (_bias(data, step) for step in (1, -1))
        said.append(
            f"<b>Fewer wrong merges</b>: the same command with {fewer}. <b>Fewer missed</b>: with {more}. "
            "The scores are kept, so that takes seconds."
        )
    return f'<ul class="answer">{"".join(f"<li>{each}</li>" for each in said)}</ul>' if said else ""


def _about(count: float) -> str:
    return "hardly any" if count < 0.5 else f"about {float(f'{count:.2g}'):,.0f}"


def _bias(data: ReportData, step: int) -> str:
    """Word the precision bias one step from this run's, with the clusters that it gives where that is known."""
    value = data.precision_bias + step
    found = next((row for row in data.curve if abs(row.threshold - value) < 1e-9), None)
    gives = ""
    if found is not None and found.num_clusters == data.num_clusters:
        gives = " (as many clusters and single rows)"
    elif found is not None:
        gives = f" ({found.num_clusters:,} instead of {data.num_clusters:,} clusters and single rows)"
    return f"<code>--precision-bias {value:g}</code>{gives}"


def _remarks(data: ReportData) -> Iterable[tuple[str, str]]:
    yield from (("warning", text) for text in data.warnings)
    yield from (("note", text) for text in data.notes)


def _quality(rows: list[MetricsRow]) -> str:
    if not rows:
        return ""
    used = [key for key in _COLUMNS if any(key in row.scores for row in rows)]
    groups = [
        (title, sum(key.startswith(prefix) for key in used))
        for title, prefix in (("Pairwise", "pairwise_"), ("BCubed", "bcubed_"))
    ]
    rest = len(used) - sum(width for _, width in groups)
    upper = "".join(f'<th colspan="{width}" class="group">{title}</th>' for title, width in groups if width)
    lower = "".join(f'<th class="{_edge(key)}">{_COLUMNS[key]}</th>' for key in used)
    body = "".join(
        f"<tr{' class=own' if row.emphasis else ''}><th>{escape(row.name)}"
        + (f"<small>{escape(row.remark)}</small>" if row.remark else "")
        + "</th>"
        + "".join(f'<td class="{_edge(key)}">{_score(key, row.scores.get(key))}</td>' for key in used)
        + "</tr>"
        for row in rows
    )
    return panel(
        "Against the known identities",
        "Scores are percentages. The identities served for scoring only, unless a row says otherwise. NMI is "
        "normalised by the arithmetic mean; an unassigned row counts as a cluster of its own, a row of unknown "
        "identity (-1) is not scored.",
        f'<div class=scroll><table class="metrics"><thead><tr><th></th>{upper}<th colspan="{rest}"></th></tr>'
        f"<tr><th></th>{lower}</tr></thead><tbody>{body}</tbody></table></div>",
    )


def _changes(changes: list[Change]) -> str:
    """Render what updates did to clusters: a line for each update, and the mergers and splits of the last one."""
    if not changes:
        return ""
    head = "".join(f"<th>{escape(event)}</th>" for event in EVENTS)
    body = "".join(
        f"<tr><th>update {change.update}</th>"
        + "".join(f"<td>{change.events[event]:,}</td>" if event in change.events else "<td>–</td>" for event in EVENTS)
        + "</tr>"
        for change in changes
    )
    table = (
        f'<div class=scroll><table class="numbers"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    panels = [panel("What became of clusters", "How many clusters met each event, by update.", table)]
    if changes[0].moves:
        lines = "".join(
            f"<li><span class=row>{rows:,}</span><span>cluster {cluster} {escape(event)} {other}</span></li>"
            for event, cluster, other, rows in changes[0].moves
        )
        text = f"By update {changes[0].update}, with how many rows moved; those of most rows first."
        panels.append(panel("Mergers and splits", text, f'<ol class="lines">{lines}</ol>'))
    return f'<div class="columns">{"".join(panels)}</div>'


def _sizes(data: ReportData) -> str:
    if not data.size_bins:
        return ""
    many = len(data.size_bins) > _MANY_CLASSES
    names = [short(b.low) + ("" if many or b.low == b.high else f"–{short(b.high)}") for b in data.size_bins]
    details = [
        f"{b.low:,}{'' if b.low == b.high else f' to {b.high:,}'} {plural(b.high, 'row')}\n"
        f"clusters: {b.num_clusters:,}\nrows in them: {b.num_rows:,} ({percent(b.num_rows, data.num_rows)})"
        for b in data.size_bins
    ]
    counts = [b.num_clusters for b in data.size_bins]
    return panel(
        "How large the clusters are",
        "Size classes double; the vertical scale is logarithmic, so that a single large cluster shows.",
        charts.bars_by_class(names, counts, details, "clusters", f"rows in the cluster{', from' if many else ''}"),
    )


def _graph(data: ReportData) -> str:
    panels = []
    if data.similarities:
        text = "Cosine similarity of every pair of neighbours in the KNN graph."
        panels.append(panel("Similarities", text, _histogram(data.similarities, "similarity")))
    if data.scores:
        text = "Scores the method gave to those pairs."
        if data.scores.left_out:
            text += f" {data.scores.left_out:,} that it gave none are left out."
        panels.append(panel("Scores", text, _histogram(data.scores, "score")))
    if data.recall:
        panels.append(_recall(data.recall))
    return f'<div class="columns graph">{"".join(panels)}</div>' if panels else ""


def _histogram(edges: ValueHistogram, x_name: str) -> str:
    series = [Series("inside clusters" if edges.pruned else "edges", edges.kept, "a")]
    if edges.pruned:
        series.append(Series("between clusters", edges.pruned, "mute"))
    marker = None if edges.threshold is None else Marker(edges.threshold, "threshold")
    return charts.histogram(edges.bin_edges, series, "edges", x_name, marker)


def _recall(recall: RecallEstimate) -> str:
    meters = [(f"recall@{recall.k}", recall.recall)]
    if recall.recall_above_floor is not None and recall.floor is not None:
        meters.append((f"neighbours of similarity ≥ {decimal(recall.floor)}", recall.recall_above_floor))
    body = "".join(
        f'<div class="recall"><span>{escape(name)}</span><b>{100 * value:.2f} %</b>{meter(value)}</div>'
        for name, value in meters
    )
    return panel(
        "Neighbours found",
        f"Estimated against exact search on {recall.num_samples:,} sampled rows. Distant neighbours are what "
        "approximate search mostly misses and clustering never needs.",
        f'<div class="recalls">{body}</div>',
    )


def _certainty(data: ReportData) -> str:
    panels = []
    if data.confidence:
        text = "How much closer each row is to its own cluster than to the nearest other: at 0.5 to both alike."
        rows = [Series("rows", data.confidence.kept, "a")]
        panels.append(panel("Rows", text, charts.histogram(data.confidence.bin_edges, rows, "rows", "confidence")))
    if data.reliability:
        text = "How many of the edges of each score join one identity; right scores lie on the grey line."
        found = [Series("right", data.reliability.shares, "a"), Series("score", data.reliability.scores, "mute")]
        chart = charts.lines(data.reliability.scores, found, "share of edges", "score", percent=True)
        panels.append(panel("Scores against the known identities", text, chart))
    return f'<div class="columns">{"".join(panels)}</div>' if panels else ""


def _curve(data: ReportData) -> str:
    return _by_step(
        data.curve,
        "precision bias",
        data.precision_bias,
        "this run",
        (
            "What other precision biases would give",
            "From these same scores: <code>--precision-bias B</code> asks for 2<sup>B</sup> times the odds before an "
            "edge counts. To the left fewer splits, to the right fewer wrong merges; logarithmic scale.",
        ),
        ("Pairwise scores at each", "The identities served for scoring only."),
    )


def _sweep(data: ReportData) -> str:
    return _by_step(
        data.sweep,
        "threshold",
        data.chosen_threshold,
        "chosen",
        (
            "What plain thresholding would give",
            "Connected components of the edges at or above each threshold; logarithmic scale.",
        ),
        (
            "Pairwise scores of those components",
            "The identities served for scoring only: the threshold was not chosen on them.",
        ),
    )


def _by_step(
    steps: Sequence[SweepRow],
    axis: str,
    chosen: float | None,
    word: str,
    counted: tuple[str, str],
    scored: tuple[str, str],
) -> str:
    """Render cluster counts by one setting, and pairwise scores if identities are known; titles come with texts."""
    rows = sorted(steps, key=lambda row: row.threshold)
    if not rows:
        return ""
    xs, marker = [row.threshold for row in rows], None if chosen is None else Marker(chosen, word)
    counts = [
        Series("clusters", [row.num_clusters for row in rows], "a"),
        Series("singletons", [row.num_singletons for row in rows], "b"),
        Series("largest cluster", [row.largest for row in rows], "c"),
    ]
    panels = [panel(*counted, charts.lines(xs, counts, "count", axis, marker))]
    known = [row for row in rows if row.pairwise_f is not None]
    if known:
        fractions = [
            Series("F", [row.pairwise_f or 0.0 for row in known], "ink"),
            Series("precision", [row.pairwise_precision or 0.0 for row in known], "a"),
            Series("recall", [row.pairwise_recall or 0.0 for row in known], "b"),
        ]
        xs = [row.threshold for row in known]
        panels.append(panel(*scored, charts.lines(xs, fractions, "score", axis, marker, percent=True)))
    return f'<div class="columns">{"".join(panels)}</div>'


def _run(data: ReportData) -> str:
    tables = [("Settings", data.settings), ("Versions", data.versions), ("Hardware", data.hardware)]
    listed = "".join(
        panel(title, "", '<dl class="pairs">' + "".join(map(_pair, values.items())) + "</dl>")
        for title, values in tables
        if values
    )
    return (_stages(data.stages) if data.stages else "") + (
        f'<div class="columns three">{listed}</div>' if listed else ""
    )


def _pair(item: tuple[str, str]) -> str:
    return f"<div><dt>{escape(item[0])}</dt><dd>{escape(item[1])}</dd></div>"


def _stages(stages: list[StageRow]) -> str:
    total = sum(stage.seconds for stage in stages)
    tasks = sum(stage.num_tasks for stage in stages)
    brief = [s for s in stages if s.seconds < _SHORT * total] if len(stages) > _MANY_STAGES else []
    body = _stage_table([s for s in stages if s not in brief], total)
    if brief:
        seconds = duration_words(sum(stage.seconds for stage in brief))
        body += f"<details><summary>{len(brief)} more, {seconds} in all</summary>{_stage_table(brief, total)}</details>"
    return panel("Stages", f"{tasks:,} {plural(tasks, 'task')} in {duration_words(total)}.", body)


def _stage_table(stages: list[StageRow], total: float) -> str:
    body = "".join(
        f"<tr><th>{escape(s.name)}</th><td>{s.num_tasks:,}</td><td>{duration_words(s.seconds)}</td>"
        f'<td class="share">{meter(s.seconds / total if total else 0)}</td>'
        f"<td>{size_words(s.peak_memory_bytes) if s.peak_memory_bytes else '–'}</td>"
        f"<td>{f'{short(round(s.rate))} {escape(s.unit)}/s' if s.rate else '–'}</td></tr>"
        for s in stages
    )
    return (
        '<div class=scroll><table class="stages"><thead><tr><th>stage</th><th>tasks</th><th>time</th>'
        f"<th class=share></th><th>peak memory</th><th>rate</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _galleries(data: ReportData) -> str:
    parts = [
        render_gallery(gallery, data.score_name, f"gallery-{number}", data.review)
        for number, gallery in enumerate(data.galleries)
        if gallery.clusters
    ]
    shown = [item for gallery in data.galleries for cluster in gallery.clusters for item in cluster.items]
    if shown and not any(item.text or item.image for item in shown):
        how = (
            "Rows have no texts or pictures to show. Put <code>items.txt</code> beside the vectors, a line for each "
            "row (a text, or a picture's path), or name a column with <code>--items-column</code>, and run again."
        )
        parts.insert(0, f'<ul class="notes"><li>{how}</li></ul>')
    return "".join(parts)


def _edge(key: str) -> str:
    """Return the CSS class of a column that begins a group."""
    return "first" if key in ("pairwise_f", "bcubed_f", "nmi", "num_clusters") else ""


def _score(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if key in _COUNTS else f"{100 * value:.2f}"
