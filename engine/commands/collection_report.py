"""What the report of a collection shows: its clusters as they are after the last update, and what updates did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.matching import EVENTS, MERGED, SPLIT
from engine.collection.state import State
from engine.collection.versions import finished_updates, update_folder
from engine.commands.collection_items import SourcesPictures, collection_pictures, item_texts, sourced
from engine.commands.collection_tables import CollectionTables
from engine.commands.machine import hardware, versions
from engine.commands.report_data import GALLERIES, make_galleries, review_command, settings_shown, stage_rows
from engine.commands.report_words import word_partition, word_point
from engine.evaluation.expected import UNIT, expected_errors
from engine.evaluation.galleries import cluster_size_histogram, confidence_histogram, describe_galleries
from engine.report.cluster_list import pack_clusters
from engine.report.data import Change, Gallery, ReportData, StageRow, ValueHistogram
from engine.report.images import MAX_PAGE_BYTES
from engine.storage import manifest

SCORE_BINS = 50
MOST_CHANGES, MOST_MOVES = 30, 30


def collection_report_data(root: Path, items_root: Sequence[str] = ()) -> ReportData:
    """Gather what the report of a collection shows.

    What a report says of the full run's scorer, graph and thresholds is left out, because it would be of other rows.
    """
    collection = CollectionTables(root)
    held, state, kept = manifest.read_run(root), collection.state, collection.held.kept
    source, method = held["request"]["source"], held["plan"]["facts"]["method"]
    labels_N = collection.labels
    rows, clusters = collection.explained
    pictures = collection_pictures(collection, items_root, MAX_PAGE_BYTES)
    galleries = _galleries(collection, pictures)
    histogram = confidence_histogram(rows.confidence)
    scores, expected = _scores(state)
    return ReportData(
        title=f"Clusters of {'/'.join(Path(source['path']).parts[-2:])}",
        method=f"{method}, {word_partition(kept.point['partition'])}",
        source=source["path"],
        num_rows=len(labels_N),
        num_dimensions=source["dim"],
        num_clusters=len(clusters.labels),
        num_singletons=int((clusters.sizes == 1).sum()),
        largest=int(clusters.sizes.max(initial=0)),
        model=held["request"].get("model"),
        notes=_notes(collection),
        warnings=pictures.refused(),
        size_bins=cluster_size_histogram(clusters.sizes),
        scores=scores,
        expected_errors=expected if kept.learned else None,
        score_name="score" if kept.learned else "similarity",
        probabilities=kept.learned,
        confidence=ValueHistogram(histogram["bin_edges"], histogram["rows"]),
        galleries=galleries,
        clusters=pack_clusters(clusters.labels, clusters.sizes, clusters.cohesion, clusters.weakest_score),
        changes=_changes(collection.lineage()),
        review=review_command(root),
        stages=_stages(root),
        settings=settings_shown(held, method),
        versions=versions(),
        hardware=hardware(),
    )


def _notes(collection: CollectionTables) -> list[str]:
    """Say what the collection is, and what it still has of the full run."""
    since, kept, state = collection.held.since(), collection.held.kept, collection.state
    notes = [
        f"This is the collection after update {collection.version}: {since.added:,} rows were added and "
        f"{kept.removed:,} removed since the full run of {since.full_rows:,} rows. Scorer and thresholds are those of "
        f"that run: {word_point(kept.point)}."
    ]
    if since.due:
        notes.append(f"A full run is due: {since.due}.")
    if len(state.pairs):
        same = int(state.same.sum())
        notes.append(f"People's answers hold: {same:,} pairs the same, {len(state.pairs) - same:,} different.")
    dropped = int((collection.labels < 0).sum())
    if dropped:
        were = "row is" if dropped == 1 else "rows are"
        notes.append(f"{dropped:,} {were} in no cluster (label -1): zero vectors, or rows with NaN or missing values.")
    return notes


def _scores(state: State) -> tuple[ValueHistogram, tuple[float, float]]:
    """Count the edges by score, inside clusters and between them, and expect wrong and missed ones."""
    label_V = state.labels_N[state.row_numbers]
    edges = np.linspace(0 if state.kept.learned else -1, 1, SCORE_BINS + 1)
    inside, between = np.zeros(SCORE_BINS, np.int64), np.zeros(SCORE_BINS, np.int64)
    wrong = missed = 0
    for sources, targets, scores in state.edges():
        together = label_V[sources] == label_V[targets]
        inside += np.histogram(scores[together], edges)[0]
        between += np.histogram(scores[~together], edges)[0]
        of_block = expected_errors(scores, together)
        wrong, missed = wrong + of_block[0], missed + of_block[1]
    histogram = ValueHistogram(edges.tolist(), inside.tolist(), between.tolist(), state.kept.point.get("min_score"))
    return histogram, (wrong / UNIT, missed / UNIT)


def _galleries(collection: CollectionTables, pictures: SourcesPictures) -> list[Gallery]:
    """The galleries, in which rows are named by their ids."""
    state, (_, table) = collection.state, collection.explained
    labels_N = collection.labels
    places_N = np.where(labels_N >= 0, np.searchsorted(table.labels, labels_N), -1)
    found = describe_galleries(item_texts(state), table, places_N)
    item = sourced(state)

    def name(tree: dict[str, Any]) -> dict[str, Any]:
        named: dict[str, Any] = {
            part: state.ids.take(np.array(tree[part], np.int64)).to_list() for part in ("rows", "marked")
        }
        if tree["items"]:
            named["items"] = [item(row, text) for row, text in zip(tree["rows"], tree["items"], strict=True)]
        return {**tree, **named, **({"beside": name(tree["beside"])} if "beside" in tree else {})}

    return make_galleries({each: [name(tree) for tree in found[each]] for each in GALLERIES}, pictures)


def _changes(lineage: dict[str, Any]) -> list[Change]:
    """What each of the last updates did, the last one first."""
    events, updates = np.array(lineage["event"]), np.asarray(lineage["update"])
    changes = []
    for number in sorted(set(updates.tolist()), reverse=True)[:MOST_CHANGES]:
        own = np.flatnonzero(updates == number)
        counts = {event: int(np.count_nonzero(events[own] == event)) for event in EVENTS}
        moved = own[np.isin(events[own], (MERGED, SPLIT))]
        moved = moved[np.argsort(-lineage["rows"][moved], kind="stable")][:MOST_MOVES]
        columns = [lineage[name][moved].tolist() for name in ("cluster", "other", "rows")]
        moves = list(zip(events[moved].tolist(), *columns, strict=True))
        changes.append(Change(number, {event: count for event, count in counts.items() if count}, moves))
    return changes


def _stages(root: Path) -> list[StageRow]:
    """The stages of the updates that are kept."""
    rows = []
    for number in finished_updates(root):
        folder = update_folder(root, number)
        rows += stage_rows(folder, manifest.read_run(folder), f"update {number}: ")
    return rows
