"""Galleries of a report: cards of chosen clusters with their pictures or texts."""

from __future__ import annotations

from html import escape

from engine.process.terminal import shown
from engine.report.data import Gallery, GalleryCluster, GalleryItem
from engine.report.document import meter, plural
from engine.report.images import is_picture

REVIEW_PORT = 8420  # where reviews are served, if it is free
SHOWN_CHARACTERS = 200  # of an item, because a browser takes minutes to lay out a word of tens of thousands


def render_gallery(gallery: Gallery, score: str, anchor: str, review: str | None = None) -> str:
    """Render one gallery as HTML; ``score`` names the numbers of its clusters, ``anchor`` is its id in the page.

    ``review``: the command of a review, if there can be one.
    """
    cards = "".join(_card(cluster, gallery.pixelated, score, review) for cluster in gallery.clusters)
    return (
        f'<div class="gallery" id="{anchor}"><h3>{escape(gallery.title)}</h3>'
        f'<p class="lead">{escape(gallery.explanation)}</p><div class="cards">{cards}</div></div>'
    )


def _card(cluster: GalleryCluster, pixelated: bool, score: str, review: str | None) -> str:
    beside, act = cluster.beside, "" if review is None else _act(review, cluster.label)
    if beside is None:
        return f'<article class="card">{_cluster(cluster, pixelated, score)}{act}</article>'
    affinity = "" if cluster.affinity is None else f"<b>{cluster.affinity:.3f}</b> mean {score} between them"
    return (
        f'<article class="card pair">{_cluster(cluster, pixelated, score)}<p class="between">{affinity}</p>'
        f"{_cluster(beside, pixelated, score)}{act}</article>"
    )


def _act(review: str, label: int) -> str:
    """Render what acts on a cluster: a link into a review that is being served, and the command that serves one."""
    link = f"http://127.0.0.1:{REVIEW_PORT}/#/cluster/{label}"
    command = f"{escape(review)} <span class=whole>--cluster {label}</span>"
    return f'<p class="act"><a href="{link}">Review</a> <code>{command}</code></p>'


def _cluster(cluster: GalleryCluster, pixelated: bool, score: str) -> str:
    numbers = [
        ("confidence", "how much closer its rows are to it than to another cluster", cluster.confidence),
        (f"mean {score}", "over the pairs of neighbours inside", cluster.cohesion),
        ("weakest link", f"the {score} at which it would fall apart", cluster.weakest_score),
    ]
    scores = "".join(
        f'<span class="stat" title="{meaning}">{name} <b>{value:.3f}</b>{meter(value)}</span>'
        for name, meaning, value in numbers
        if value is not None
    )
    pairs = list(zip(cluster.rows, cluster.items, strict=True))
    pictures = "".join(_picture(row, item, row in cluster.marked_rows) for row, item in pairs if _is_picture(item))
    bare = not any(item.text or item.image for item in cluster.items)
    numbers_of_rows = ", ".join(
        f"<b class=marked>{_name(row)}</b>" if row in cluster.marked_rows else _name(row) for row in cluster.rows
    )
    texts = (
        ""
        if bare
        else "".join(
            f"<li{_mark(row in cluster.marked_rows)}><span class=row>{_name(row)}</span>"
            f"<span>{escape(_cut(item.text))}</span></li>"
            for row, item in pairs
            if not _is_picture(item)
        )
    )
    more = cluster.size - len(pairs)
    return (
        f"<h4>Cluster {cluster.label}<span>{cluster.size:,} {plural(cluster.size, 'row')}</span></h4>"
        + (f'<div class="stats">{scores}</div>' if scores else "")
        + (f'<div class="montage{" pixelated" if pixelated else ""}">{pictures}</div>' if pictures else "")
        + (f'<ol class="lines">{texts}</ol>' if texts else "")
        + (f'<p class="more">{plural(len(pairs), "row")} {numbers_of_rows}</p>' if bare and pairs else "")
        + (f'<p class="more">and {more:,} more</p>' if more > 0 else "")
    )


def _is_picture(item: GalleryItem) -> bool:
    return item.image is not None and is_picture(item.image)


def _cut(text: str) -> str:
    return shown(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")


def _mark(marked: bool) -> str:
    return ' class="marked"' if marked else ""


def _name(row: int | str) -> str:
    return escape(_cut(str(row)))


def _picture(row: int | str, item: GalleryItem, marked: bool) -> str:
    name = f"row {_cut(str(row))}"
    caption = escape(f"{_cut(item.text)} · {name}" if item.text else name)
    return f'<img{_mark(marked)} src="{item.image}" alt="{caption}" title="{caption}" loading="lazy">'
