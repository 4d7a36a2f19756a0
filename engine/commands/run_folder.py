"""A run's folder, opened: its committed stages, its labels, and the places that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.versions import updated_labels
from engine.errors import DataError
from engine.methods.model_card import MODEL_FILE
from engine.storage import manifest
from engine.storage.context import check_outputs, is_committed, read_npy, stage_facts
from engine.storage.formats.texts import ITEMS_FILE
from engine.storage.places import open_place, open_stage
from engine.storage.remote import absolute, is_url

COMPARISON_PAGE = "comparison.html"
COMPARISON_STORE = "store"  # A comparison's folder holds this store, and no run itself.


def open_run(root: str | Path) -> Path:
    """Return the local folder of a run, store or training; what is committed at a URL is fetched into it.

    Raises ``DataError`` for the folder of a comparison, and for a URL that holds none.
    """
    place = open_place(root)
    place.refresh()
    if is_url(place) and not (place.root / manifest.RUN_FILE).is_file():
        raise DataError(f"{place} holds no run: {manifest.RUN_FILE} is missing")
    refuse_comparison(place.root)
    return place.root


def run_labels(root: str | Path, level: int = 1) -> np.ndarray:
    """Read the labels (N,) int64 of a finished run, in source order. Raises ``DataError`` if there are none yet.

    Of a collection they are those of the last version. ``level`` 2: the second answer of a run without labels, which
    is nested with the first; ``DataError`` if it has none.
    """
    here = open_run(root)
    labels = updated_labels(here)
    if level == 1:
        return labels_of(here, root) if labels is None else labels
    second = second_labels(here) if labels is None else None
    if second is None or level != 2:
        why = "it has been updated" if labels is not None else "one answer was found in its data"
        raise DataError(f"{root} has no level {level}: {why if second is None else 'it has 2'}")
    return second


def second_labels(folder_here: Path) -> np.ndarray | None:
    """Read the labels of a run's second answer, as ``Levels`` wrote them; ``None`` if there is none."""
    folder = stage_folder(folder_here, "levels")
    if folder is None or not stage_facts(folder)[0]["second"]:
        return None
    check_outputs(folder, "labels.npy")
    return np.array(read_npy(folder, "labels"))


def labels_of(folder_here: Path, root: str | Path) -> np.ndarray:
    """Read the labels in a local folder; ``root`` is what errors call it. As ``run_labels``."""
    refuse_others(folder_here)
    folder = stage_folder(folder_here, "labels", "labels.npy")
    if folder is None:
        raise DataError(f"{root} has no labels yet: asterism resume {root}")
    return np.array(read_npy(folder, "labels"))


def stage_folder(root: Path, name: str, *reads: str) -> Path | None:
    """Return the folder of a stage of the run's present plan, with its outputs fetched; ``None`` if it is not finished.

    A finished stage whose outputs would else be those of this stage comes before it.

    ``reads``: the outputs, files or folders, that the caller will read. They are compared with their checksums. Raises
    ``DataError`` for a damaged output.
    """
    stages = manifest.read_run(root)["plan"]["stages"]
    for stage in sorted(stages, key=lambda stage: stage.get("instead") != name):  # what may replace a stage comes first
        folder = root / f"{stage['name']}-{stage['digest'][:12]}"
        replaces = stage.get("instead") == name != stage.get("unless")  # else it is a check
        if (stage["name"] == name or replaces) and is_committed(folder, stage["digest"], stage["num_rows"]):
            break
    else:
        return None
    open_place(root).fetch(folder)
    check_outputs(folder, *reads)
    return folder


def vectors_folder(root: Path, *reads: str) -> Path:
    """Return the folder of the ingested vectors: the run's own, or the store's. ``reads`` as in ``stage_folder``."""
    source = manifest.read_run(root)["request"]["source"]
    folder = None if source["store"] else stage_folder(root, "ingest", *reads)
    if source["store"]:
        place, folder = open_stage(source["store"])
        place.fetch(folder)
    if folder is None or not folder.is_dir():
        raise DataError(f"{root}: the ingested vectors are not there ({source['path']})")
    if source["store"]:
        stage = manifest.read_stage(folder)
        if not is_committed(folder, stage["digest"], stage["num_rows"]):
            raise DataError(f"{folder}: commit records are missing or damaged; asterism resume {place} mends the store")
        check_outputs(folder, *reads)
    return folder


def operating_point(root: Path) -> dict[str, Any]:
    """Read the operating point that a finished run used."""
    folder = stage_folder(root, "roots")
    return stage_facts(folder)[0] if folder else {}


def recall_estimate(root: Path) -> dict[str, Any] | None:
    """Read the recall of the KNN graph, if the run estimated it."""
    folder = stage_folder(root, "recall")
    return stage_facts(folder)[0] if folder else None


def places_read(here: Path, root: str | Path) -> list[str]:
    """List the files and folders that a run holds or was made from. No output of the user may replace one."""
    request = manifest.read_run(here)["request"]
    source = request["source"]
    committee = request["settings"].get("cdp", {}).get("committee", ())
    named = [request.get(name) for name in ("features", "labels", "model", "knn_graph", "decisions")]
    files = [file for file, *_ in source["stats"]]
    found = [str(place) for place in (here, absolute(root), *named, *committee, source["store"], *files) if place]
    origin = source["spec"]["path"]
    return found if is_url(origin) else [*found, origin, str(Path(origin).with_name(ITEMS_FILE))]


def refuse_comparison(root: Path) -> None:
    """Raise ``DataError`` for the folder of a comparison, or of a model."""
    if not (root / manifest.RUN_FILE).exists() and (root / MODEL_FILE).exists():
        raise DataError(
            f"{root} holds a trained model, not a run: asterism run --model {root} clusters with it; its training is "
            f"in {root}-training unless that was deleted or the model moved"
        )
    if not (root / manifest.RUN_FILE).exists() and (root / COMPARISON_STORE / manifest.RUN_FILE).exists():
        raise DataError(
            f"{root} holds a comparison, not a run: {COMPARISON_PAGE} there is its page, runs/ has each method's "
            f"labels and report; asterism compare takes it up again"
        )


def refuse_others(root: Path) -> None:
    """Raise ``DataError`` for the folder of a store or a training, which has no clusters."""
    kind = manifest.read_run(root)["kind"]
    if kind != "run":
        request = manifest.read_run(root)["request"]
        held, option, place = (
            ("a training", "--model", request.get("out"))
            if kind == "training"
            else ("ingested vectors", "--features", root)
        )
        raise DataError(f"{root} holds {held}, no clusters: asterism run {option} {place} makes some")
