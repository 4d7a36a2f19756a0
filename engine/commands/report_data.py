"""What the report of a finished run shows, gathered from its committed stages and event log."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from engine.commands.committed import all_committed, not_needed
from engine.commands.machine import hardware, versions
from engine.commands.report_words import word_notes, word_partition, word_point
from engine.commands.run_folder import recall_estimate, refuse_others, stage_folder
from engine.errors import DataError, EngineError
from engine.evaluation.files import ANALYSIS, CURVE
from engine.evaluation.galleries import SizeBin
from engine.evaluation.sweep import SweepRow
from engine.methods.registry import METHODS
from engine.process.terminal import shown
from engine.report.cluster_list import pack_clusters
from engine.report.data import (
    ClusterList,
    Gallery,
    GalleryCluster,
    GalleryItem,
    MetricsRow,
    RecallEstimate,
    Reliability,
    ReportData,
    StageRow,
    ValueHistogram,
)
from engine.report.images import MAX_PAGE_BYTES, Pictures, is_tiny
from engine.runs.events import read_events
from engine.steps.explain import read_clusters
from engine.storage import manifest
from engine.storage.context import committed_records
from engine.storage.formats.registry import open_source
from engine.storage.owned import read_owned
from engine.storage.remote import is_url


class ItemPictures(Protocol):
    """What finds the pictures of items, as ``engine.report.images.Pictures`` does."""

    def fetch(self, items: Iterable[str]) -> None: ...

    def find(self, item: str) -> str | None: ...


GALLERIES = {
    "likely_merges": (
        "Likely merges",
        "A smaller cluster beside the one that its rows lean to most: look here for one identity in two clusters.",
    ),
    "likely_splits": (
        "Likely splits",
        "Two parts joined by one weak place, whose rows are marked: look here for two identities in one cluster.",
    ),
    "least_certain": (
        "Least certain",
        "Lowest confidence: rows nearly as close to another cluster. Look here for rows that do not belong.",
    ),
    "largest": ("Largest", "The clusters with the most rows."),
}


def report_data(root: Path, items_root: Sequence[str] = ()) -> ReportData:
    """Gather what the report of a finished run shows."""
    refuse_others(root)
    try:
        return _report_data(root, items_root)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, EngineError):
            raise
        raise DataError(
            f"{root}: its stages do not say of themselves what this version's stages do "
            f"({type(error).__name__}: {error}); asterism resume {root} computes them again"
        ) from error


def picture_folders(held: Mapping[str, Any], items_root: Sequence[str]) -> list[Path]:
    """Where a report's pictures may lie: the source's folder, and those of ``--items-root``, now and at the run."""
    request = held["request"]
    origin = request["source"]["spec"]["path"]
    beside = [] if is_url(origin) else [Path(origin) if os.path.isdir(origin) else Path(origin).parent]
    return [*beside, *map(Path, (*request.get("items_root", ()), *items_root))]


def picture_cells(held: Mapping[str, Any]) -> Callable[[Iterable[str]], Mapping[str, bytes | str]] | None:
    """Return what reads the source's own pictures, if it still has a column of them and lies on this machine."""
    spec = held["request"]["source"]["spec"]
    try:
        return None if is_url(spec["path"]) else open_source(**spec).pictures
    except EngineError:  # it was moved, or changed: the report says which pictures are missing
        return None


def review_command(root: Path) -> str:
    """Return the command that serves a review of a run."""
    return f"asterism review {shlex.quote(shown(root))}"


def _report_data(root: Path, items_root: Sequence[str]) -> ReportData:
    held = manifest.read_run(root)
    source, settings = held["request"]["source"], held["request"]["settings"]
    folder = stage_folder(root, "analysis", "analysis.json")
    if folder is None or not all_committed(root, held):
        raise DataError(f"{root} is not finished yet, or commit records are damaged: asterism resume {root}")
    value = read_owned(folder / "analysis.json", ANALYSIS)
    method, point = held["plan"]["facts"]["method"], value["point"]
    own = METHODS[method].clusters_itself
    recall = recall_estimate(root)
    pictures = Pictures(picture_folders(held, items_root), picture_cells(held), room=MAX_PAGE_BYTES)
    galleries = make_galleries(value["galleries"], pictures)
    histograms = {
        name: ValueHistogram(
            tree["bin_edges"],
            tree["kept"],
            tree["pruned"],
            point.get("min_score") if name == "score" or method == "cosine" else None,
            value.get("unscored_edges", 0) if name == "score" else 0,
        )
        for name, tree in value["histograms"].items()
    }
    return ReportData(
        title=f"Clusters of {'/'.join(Path(source['path']).parts[-2:])}",
        method=f"{method}, {word_partition(point['partition'])}",
        source=source["path"],
        num_rows=source["num_rows"],
        num_dimensions=source["dim"],
        num_clusters=value["num_clusters"],
        num_singletons=value["num_singletons"],
        largest=value["largest"],
        model=held["request"].get("model"),
        operating_point=word_point(point),
        notes=word_notes(root, value, point),
        warnings=pictures.refused(),
        review=review_command(root),
        size_bins=[SizeBin(**tree) for tree in value["sizes"]],
        metrics=_metrics(value),
        sweep=[] if own else [SweepRow(**row) for row in value["sweeps"]["score"]],
        chosen_threshold=point.get("min_score"),
        curve=_curve(root),
        precision_bias=settings.get("partition", {}).get("precision_bias", 0.0),
        similarities=histograms["similarity"],
        scores=None if own or method == "cosine" else histograms["score"],
        expected_errors=None if own else value.get("expected_errors"),
        score_name="similarity" if own else "score",
        probabilities=METHODS[method].learned and not own,
        recall=RecallEstimate(
            recall["k"],
            recall["recall"],
            recall["samples"],
            recall["floor"],
            recall["recall_above_floor"] if recall.get("neighbors_above_floor", 1) else None,
        )
        if recall
        else None,
        confidence=ValueHistogram(value["confidence"]["bin_edges"], value["confidence"]["rows"]),
        reliability=_reliability(value.get("reliability")),
        galleries=galleries,
        clusters=_clusters(root),
        stages=stage_rows(root, held),
        settings=settings_shown(held, method),
        versions=versions(),
        hardware=hardware(),
    )


def _clusters(root: Path) -> ClusterList | None:
    folder = stage_folder(root, "explain", "clusters")
    if folder is None:
        return None
    table = read_clusters(folder)
    return pack_clusters(table.labels, table.sizes, table.cohesion, table.weakest_score)


def _curve(root: Path) -> list[SweepRow]:
    folder = stage_folder(root, "curve", "curve.json")
    return [] if folder is None else [SweepRow(**row) for row in read_owned(folder / "curve.json", CURVE)["rows"]]


def _metrics(value: dict[str, Any]) -> list[MetricsRow]:
    if "metrics" not in value:
        return []
    remark = f"cosine ≥ {value['plain']['threshold']:.3g}, the best threshold there is, chosen on these very identities"
    return [
        MetricsRow("this run", value["metrics"], emphasis=True),
        MetricsRow("plain thresholding, its best", value["plain"]["metrics"], remark=remark),
    ]


def _reliability(tree: dict[str, Any] | None) -> Reliability | None:
    """Scores by bin, those without edges left out, and how many of their edges are right."""
    if tree is None:
        return None
    middles = [(low + high) / 2 for low, high in pairwise(tree["bin_edges"])]
    bins = [(x, same, same + other) for x, same, other in zip(middles, tree["kept"], tree["pruned"], strict=True)]
    filled = [(x, same / edges, edges) for x, same, edges in bins if edges]
    return Reliability(*(list(column) for column in zip(*filled, strict=True))) if len(filled) > 1 else None


def make_galleries(trees: Mapping[str, list[dict[str, Any]]], pictures: ItemPictures) -> list[Gallery]:
    """Make the galleries of the clusters that ``describe_galleries`` described."""
    pictures.fetch(text for name in GALLERIES for tree in trees[name] for text in _texts(tree))
    return [_gallery(name, trees[name], pictures) for name in GALLERIES]


def _gallery(name: str, clusters: list[dict[str, Any]], pictures: ItemPictures) -> Gallery:
    title, explanation = GALLERIES[name]
    shown = [_gallery_cluster(tree, pictures) for tree in clusters]
    parts = [*shown, *(cluster.beside for cluster in shown if cluster.beside)]
    images = [item.image for cluster in parts for item in cluster.items if item.image]
    return Gallery(title, explanation, shown, bool(images) and all(map(is_tiny, images)))


def _texts(tree: Mapping[str, Any]) -> list[str]:
    return [*tree["items"], *(_texts(tree["beside"]) if "beside" in tree else [])]


def _gallery_cluster(tree: dict[str, Any], pictures: ItemPictures) -> GalleryCluster:
    return GalleryCluster(
        label=tree["label"],
        size=tree["size"],
        rows=tree["rows"],
        items=[_item(text, pictures) for text in tree["items"]] or [GalleryItem() for _ in tree["rows"]],
        confidence=tree["confidence"],
        cohesion=tree["cohesion"],
        weakest_score=tree["weakest_score"],
        marked_rows=tree["marked"],
        beside=_gallery_cluster(tree["beside"], pictures) if "beside" in tree else None,
        affinity=tree.get("affinity"),
    )


def _item(text: str, pictures: ItemPictures) -> GalleryItem:
    image = pictures.find(text)
    return GalleryItem("" if image else text, image)


def settings_shown(held: Mapping[str, Any], method: str) -> dict[str, str]:
    """The settings that a run was given and that its method reads, by dotted name."""
    settings = held["request"]["settings"]
    return _flat({name: each for name, each in settings.items() if METHODS[method].reads(name, training=False)})


def stage_rows(root: Path, held: dict[str, Any], before: str = "") -> list[StageRow]:
    """The time and memory of the stages that were needed; ``before``: what their names begin with."""
    peaks: dict[str, int] = {}
    for event in read_events(root):
        if event["event"] == "stage_finished" and event["tasks_run"]:
            peaks[event["digest"]] = max(event["peak_bytes"], peaks.get(event["digest"], 0))
    rows, unneeded = [], not_needed(root, held)
    for stage in held["plan"]["stages"]:
        if stage["name"] in unneeded:
            continue
        records = committed_records(root / f"{stage['name']}-{stage['digest'][:12]}", stage["digest"])
        seconds = sum(record.seconds for record in records)
        rate = stage["num_rows"] / seconds if seconds > 0 and stage["num_rows"] > 1 else None
        rows.append(StageRow(before + stage["name"], len(records), seconds, peaks.get(stage["digest"]), rate))
    return rows


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat
