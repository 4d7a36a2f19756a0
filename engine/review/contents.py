"""What a review reads: of a finished run, or of the last version of a run that lives on. Nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.asking import questions_about
from engine.commands.collection_items import collection_pictures, item_texts, sourced
from engine.commands.collection_tables import CollectionTables
from engine.commands.report_data import picture_cells, picture_folders
from engine.commands.run_folder import labels_of, stage_folder, vectors_folder
from engine.errors import DataError
from engine.report.images import Pictures
from engine.review.catalogue import Contents
from engine.steps.decisions import ASKED
from engine.steps.ingest import row_column
from engine.steps.questions import COLUMNS, chance_moves
from engine.storage import manifest
from engine.storage.arrays import map_array
from engine.storage.context import read_npy, table_parts
from engine.storage.decisions import Decision
from engine.storage.tables import read_columns

CLUSTER_COLUMNS = ("confidence", "cohesion", "weakest_score")


def run_contents(root: Path) -> Contents:
    """Map what the stages of a finished run have written, so that a run of millions of clusters opens at once.

    Raises ``DataError`` if the run is not finished, or has no questions.
    """
    held = manifest.read_run(root)
    explained = stage_folder(root, "explain", "confidence.npy", "nearest.npy", "clusters")
    asked = stage_folder(root, "questions", "questions", "members.npy", "starts.npy")
    if explained is None or asked is None:
        raise DataError(f"{root} is not finished, or was made by a version without reviews: asterism resume {root}")
    (clusters,) = table_parts(explained, "clusters")
    (questions,) = table_parts(asked, "questions")
    vectors = vectors_folder(root, "rows")
    features_ND = map_array(vectors, "features")
    pictures = Pictures(picture_folders(held, ()), picture_cells(held))
    return Contents(
        labels_N=labels_of(root, root),
        names_C=None,
        members_N=read_npy(asked, "members"),
        starts_C=read_npy(asked, "starts"),
        confidence_N=read_npy(explained, "confidence"),
        nearest_N=read_npy(explained, "nearest"),
        clusters=dict(zip(CLUSTER_COLUMNS, read_columns(clusters, CLUSTER_COLUMNS), strict=True)),
        questions=dict(zip(COLUMNS, read_columns(questions, COLUMNS), strict=True)),
        vectors=lambda rows: np.asarray(features_ND[rows]),
        ids=row_column(vectors, "id"),
        items=row_column(vectors, "item"),
        picture=lambda row, text: pictures.find(text),
        numbered=True,
    )


def collection_contents(collection: CollectionTables, settled: Sequence[Decision]) -> Contents:
    """Put together what the last version of a collection says, and choose its questions; edges are read five times.

    ``settled``: answers of the review; those to earlier questions correct the chances of the next ones.
    """
    state, (rows, table) = collection.state, collection.explained
    labels_N, vertex_N = collection.labels, state.vertices
    questions = questions_about(state, (rows, table), collection.scored_edges, _moves(settled))
    columns: dict[str, Any] = {name: getattr(questions, name) for name in COLUMNS if name not in ("row", "other_row")}
    columns |= {"row": questions.rows[:, 0], "other_row": questions.rows[:, 1]}
    pictures, item = collection_pictures(collection, (), None), sourced(state)
    return Contents(
        labels_N=labels_N,
        names_C=table.labels,
        members_N=np.argsort(labels_N, kind="stable").astype(np.int32),
        starts_C=np.append(0, np.cumsum(table.sizes)) + int((labels_N < 0).sum()),
        confidence_N=rows.confidence,
        nearest_N=rows.nearest,
        clusters={name: getattr(table, name) for name in CLUSTER_COLUMNS},
        questions=columns,
        vectors=lambda own: np.asarray(state.graphs[0].features[vertex_N[own]]),
        ids=state.ids.values,
        items=item_texts(state),
        picture=lambda row, text: pictures.find(item(row, text)),
        numbered=False,  # after a removal numbers are others than before
    )


def _moves(settled: Sequence[Decision]) -> dict[int, tuple[float, float]]:
    same = np.array([each.decision != "different" for each in settled], np.bool_)
    asked = np.array([ASKED.index(each.asked or "") for each in settled], np.int8)
    chance = np.array([np.nan if each.chance is None else each.chance for each in settled], np.float32)
    return chance_moves(same, asked, chance)
