"""What a run's folder tells: its status, its report, and the model that a training leaves behind."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from engine.errors import DataError, EngineError
from engine.evaluation.files import ANALYSIS, CURVE
from engine.evaluation.galleries import SizeBin
from engine.evaluation.sweep import SweepRow
from engine.methods import model_card
from engine.methods.fitting import FITTED_WEIGHTS
from engine.methods.registry import METHODS
from engine.partitions import OWN, PARTITIONS
from engine.report.data import (
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
from engine.report.images import Pictures
from engine.report.page import render_report
from engine.runs import scratch
from engine.runs.effort import run_effort
from engine.runs.events import read_events
from engine.runs.plan import Plan, count_pending
from engine.settings import Settings
from engine.stages import Cost, Stage
from engine.storage import manifest
from engine.storage.context import check_outputs, committed_records, is_committed, stage_facts
from engine.storage.formats.texts import ITEMS_FILE
from engine.storage.owned import read_owned
from engine.storage.places import Place, open_place, open_stage
from engine.storage.remote import absolute, is_url
from engine.version import __version__

REPORT_FILE = "report.html"
COMPARISON_PAGE = "comparison.html"
COMPARISON_STORE = "store"  # in its folder, which holds no run itself
PACKAGES = ("torch", "faiss-cpu", "faiss-gpu", "numpy", "numba", "pyarrow", "zarr", "ray")
_GALLERIES = {
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


def stage_folder(root: Path, name: str, *reads: str) -> Path | None:
    """Folder of a finished stage of the run's present plan, with its outputs here, or ``None``.

    ``reads``: the outputs that the caller will read, files or folders, which are compared with their checksums. Raises
    ``DataError`` for one that is damaged.
    """
    stage = next((s for s in manifest.read_run(root)["plan"]["stages"] if s["name"] == name), None)
    if stage is None:
        return None
    folder = root / f"{name}-{stage['digest'][:12]}"
    if not is_committed(folder, stage["digest"], stage["num_rows"]):
        return None
    open_place(root).fetch(folder)
    check_outputs(folder, *reads)
    return folder


def refuse_comparison(root: Path) -> None:
    """Say what a comparison's folder is to who takes it for a run's."""
    if not (root / manifest.RUN_FILE).exists() and (root / COMPARISON_STORE / manifest.RUN_FILE).exists():
        raise DataError(
            f"{root} holds a comparison, not a run: {COMPARISON_PAGE} there is its page, runs/ has each method's "
            f"labels and report; asterism compare takes it up again"
        )


def refuse_others(root: Path) -> None:
    """Say what a folder holds that is no run's, and what to do with it."""
    kind = manifest.read_run(root)["kind"]
    if kind != "run":
        held, option = ("a trained model", "--model") if kind == "training" else ("ingested vectors", "--features")
        raise DataError(f"{root} holds {held}, no clusters: asterism run {option} {root} makes some")


def vectors_folder(root: Path, *reads: str) -> Path:
    """Folder of the ingested source that a run reads: its own, or the store's; ``reads`` as ``stage_folder`` takes."""
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


def run_status(root: Path) -> dict[str, Any]:
    """State of a run and of each stage that is needed: rows committed, seconds, peak memory. Reads the folder only."""
    held = manifest.read_run(root)
    finished = {event["stage"]: event for event in read_events(root) if event["event"] == "stage_finished"}
    stages, unneeded = [], not_needed(root, held)
    for stage in held["plan"]["stages"]:
        if stage["name"] in unneeded:
            continue
        records = committed_records(root / f"{stage['name']}-{stage['digest'][:12]}", stage["digest"])
        done = sum(record.stop - record.start for record in records)
        planned = _planned(stage)
        stages.append(
            {
                "stage": stage["name"],
                "rows": stage["num_rows"],
                "rows_committed": done,
                "tasks_committed": len(records),
                "tasks": len(records) + count_pending(planned, [(record.start, record.stop) for record in records]),
                "task_seconds": round(sum(record.seconds for record in records), 3),
                "peak_bytes": finished.get(stage["name"], {}).get("peak_bytes"),
            }
        )
    effort = asdict(run_effort(root))
    state = "stopped" if held["state"] == "running" and not open_place(root).is_running() else held["state"]
    return {"run": str(root), "kind": held["kind"], "state": state, "stages": stages, "effort": effort}


def not_needed(root: Path, held: dict[str, Any]) -> set[str]:
    """Names of the planned stages that a finished check has made unnecessary, so far."""
    return scratch.not_needed([_planned(stage) for stage in held["plan"]["stages"]], root)


def _planned(stage: dict[str, Any]) -> Stage:
    """A stage as a run's manifest holds it."""
    return Stage(**{**stage, "cost": Cost(**stage["cost"])})


def all_committed(root: Path, held: dict[str, Any]) -> bool:
    """Tell whether every stage that is needed was committed: else a report would leave out what it says."""
    unneeded = not_needed(root, held)
    stages = [_planned(stage) for stage in held["plan"]["stages"] if stage["name"] not in unneeded]
    return all(stage.scratch or scratch.is_finished(root / stage.folder, stage) for stage in stages)


def operating_point(root: Path) -> dict[str, Any]:
    """The operating point that a finished run used."""
    folder = stage_folder(root, "roots")
    return stage_facts(folder)[0] if folder else {}


def recall_estimate(root: Path) -> dict[str, Any] | None:
    """The KNN graph's recall as a finished run estimated it, if it did."""
    folder = stage_folder(root, "recall")
    return stage_facts(folder)[0] if folder else None


def write_report(place: Place, items_root: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Write ``report.html`` of a finished run into its folder; return where that is, and its warnings."""
    html, warnings = report_page(place.root, items_root)
    path = place.root / REPORT_FILE
    manifest.write_atomic(path, lambda stream: stream.write(html))
    place.publish(path)
    return f"{place}/{REPORT_FILE}", warnings


def report_page(root: Path, items_root: Sequence[str] = ()) -> tuple[bytes, list[str]]:
    """Render the report of a finished run from its committed stages and event log; return the page and its warnings."""
    data = report_data(root, items_root)
    return render_report(data).encode("utf-8", "backslashreplace"), data.warnings  # a path may be no UTF-8


def places_read(here: Path, root: str | Path) -> list[str]:
    """Files and folders that a run holds or was made from: nothing is written there for the user."""
    request = manifest.read_run(here)["request"]
    source = request["source"]
    committee = request["settings"].get("cdp", {}).get("committee", ())
    named = [request.get(name) for name in ("features", "labels", "model", "knn_graph")]
    files = [file for file, *_ in source["stats"]]
    found = [str(place) for place in (here, absolute(root), *named, *committee, source["store"], *files) if place]
    origin = source["spec"]["path"]
    return found if is_url(origin) else [*found, origin, str(Path(origin).with_name(ITEMS_FILE))]


def picture_folders(held: Mapping[str, Any], items_root: Sequence[str]) -> list[Path]:
    """Where a report's pictures may lie: the source's folder, and those of ``--items-root``, now and at the run."""
    request = held["request"]
    origin = request["source"]["spec"]["path"]
    beside = [] if is_url(origin) else [Path(origin) if os.path.isdir(origin) else Path(origin).parent]
    return [*beside, *map(Path, (*request.get("items_root", ()), *items_root))]


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
    pictures = Pictures(picture_folders(held, items_root))
    galleries = [_gallery(name, value["galleries"][name], pictures) for name in _GALLERIES]
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
        method=f"{method}, {_partition_words(point['partition'])}",
        source=source["path"],
        num_rows=source["num_rows"],
        num_dimensions=source["dim"],
        num_clusters=value["num_clusters"],
        num_singletons=value["num_singletons"],
        largest=value["largest"],
        model=held["request"].get("model"),
        operating_point=_word_point(point),
        notes=_notes(root, value, point),
        warnings=pictures.refused(),
        size_bins=[SizeBin(**tree) for tree in value["sizes"]],
        metrics=_metrics(value),
        sweep=[] if own else [SweepRow(**row) for row in value["sweeps"]["score"]],
        chosen_threshold=point.get("min_score"),
        curve=_curve(root),
        precision_bias=settings.get("partition", {}).get("precision_bias", 0.0),
        similarities=histograms["similarity"],
        scores=None if own or method == "cosine" else histograms["score"],
        score_name="similarity" if own else "score",
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
        stages=_stage_rows(root, held),
        settings=_flat({name: each for name, each in settings.items() if METHODS[method].reads(name, training=False)}),
        versions=versions(),
        hardware=hardware(),
    )


def _curve(root: Path) -> list[SweepRow]:
    folder = stage_folder(root, "curve", "curve.json")
    return [] if folder is None else [SweepRow(**row) for row in read_owned(folder / "curve.json", CURVE)["rows"]]


def write_model(place: Place, folders: dict[str, Path], plan: Plan, settings: Settings) -> None:
    """Leave ``model.json`` and ``model.safetensors`` in a finished training's folder."""
    for name in ("select", "fit"):
        place.fetch(folders[name])
    selected, method = manifest.read_json(folders["select"] / "selected.json"), plan.facts["method"]
    facts = {"trained_rows": plan.facts["num_rows"], **selected.get("facts", {}), **stage_facts(folders["fit"])[0]}
    model_card.write_model(
        place.root,
        (folders["fit"] / FITTED_WEIGHTS).read_bytes(),
        method=method,
        dim=plan.facts["dim"],
        k=plan.stage("knn").params["k"],
        settings=METHODS[method].untrained(settings).as_facts(),
        operating_points=selected["operating_points"],
        preferred=selected["preferred"],
        facts=facts,
    )
    place.publish(place.root / model_card.WEIGHTS_FILE, place.root / model_card.MODEL_FILE)


def versions() -> dict[str, str]:
    """Versions of the engine, Python and the packages that results depend on."""
    found = {"asterism": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """Cores, memory and processor of this machine, in words."""
    memory = psutil.virtual_memory().total / 1e9
    return {"processor": _processor(), "cores": str(os.cpu_count()), "memory": f"{memory:.0f} GB"}


def free_disk_bytes(path: Path) -> int:
    """Free bytes on the disk of ``path``."""
    return shutil.disk_usage(path).free


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _partition_words(name: str) -> str:
    return "which clusters by itself" if name == OWN else PARTITIONS[name].words


def _word_point(point: dict[str, Any]) -> str:
    if point["partition"] == OWN:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in point.items() if name != "partition")
    score = f"score ≥ {point['min_score']:.3g}"
    if "unbiased_min_score" in point:
        score += f" ({point['unbiased_min_score']:.3g} without the precision bias)"
    return ", ".join([score, *PARTITIONS[point["partition"]].point_words(point)])


def _notes(root: Path, value: dict[str, Any], point: dict[str, Any]) -> list[str]:
    notes = []
    effort = run_effort(root)
    if effort.executor == "ray":
        notes.append(f"Run on Ray: {effort}.")
    first, fitted = stage_folder(root, "first"), stage_folder(root, "fit")
    if first and fitted:
        facts = stage_facts(fitted)[0]
        learned = facts["edges"]
        what = f"then a scorer was fitted to {learned:,} edges of those clusters, and rows were clustered anew by it"
        if learned:
            what += f", its odds divided by 2^{facts['doubts']:.1f} (trees.doubts)."
            if facts.get("second_graph"):
                what += " In a second graph, of a metric learned from them, this was done again: scores are of both."
        few = "they gave nothing to learn from, so "
        if facts.get("first_stand"):
            few += "they stand, whatever the precision bias."
        else:
            few += "those stand that describe a walk on the graph in the fewest bits, whatever the precision bias."
        notes.append(
            "No labels and no model were given: rows were clustered by cosine first, at an operating point read from "
            f"the graph; {what if learned else few}"
        )
        if "chance" in (clustered := stage_facts(first)[0]):
            notes.append(clustered["reason"])
    if stage_folder(root, "project"):
        what = "Similarities are cosines in a metric that the model learned from its training labels"
        second = ", and scores are of two graphs: of that metric, and of the vectors as they are"
        notes.append(f"{what}{second if stage_folder(root, 'second_listed') else ''}.")
    plan = manifest.read_run(root)["plan"]
    listed = next((stage["params"].get("k") for stage in plan["stages"] if stage["name"] == "knn"), None)
    learned_of = plan["facts"].get("model_k", listed)
    if learned_of != listed:
        notes.append(f"The model learned from graphs of {learned_of} neighbours, this one has {listed} (knn.k).")
    if "reason" in point:
        notes.append(
            "No threshold was given and no model trained on such data: the operating point is read from the graph. "
            f"{point['reason']}"
        )
    if value["num_singletons"] == value["num_clusters"] > 1:
        notes.append(
            "No two rows were found to belong together; --precision-bias -2, for example, asks for less proof."
        )
    if "metrics" in value:
        notes.append("The identities given served for the scores in this report only, never for the clusters.")
    if value["num_dropped"]:
        notes.append(f"{value['num_dropped']:,} zero vectors were left out (label -1).")
    return notes


def _metrics(value: dict[str, Any]) -> list[MetricsRow]:
    if "metrics" not in value:
        return []
    remark = f"cosine ≥ {value['plain']['threshold']:.3g}, the best threshold there is, chosen on these very identities"
    return [
        MetricsRow("this run", value["metrics"], emphasis=True),
        MetricsRow("plain thresholding, oracle", value["plain"]["metrics"], remark=remark),
    ]


def _reliability(tree: dict[str, Any] | None) -> Reliability | None:
    """Scores by bin, those without edges left out, and how many of their edges are right."""
    if tree is None:
        return None
    middles = [(low + high) / 2 for low, high in pairwise(tree["bin_edges"])]
    bins = [(x, same, same + other) for x, same, other in zip(middles, tree["kept"], tree["pruned"], strict=True)]
    filled = [(x, same / edges, edges) for x, same, edges in bins if edges]
    return Reliability(*(list(column) for column in zip(*filled, strict=True))) if len(filled) > 1 else None


def _gallery(name: str, clusters: list[dict[str, Any]], pictures: Pictures) -> Gallery:
    title, explanation = _GALLERIES[name]
    shown = [_gallery_cluster(tree, pictures) for tree in clusters]
    parts = [*shown, *(cluster.beside for cluster in shown if cluster.beside)]
    return Gallery(title, explanation, shown, any(item.image for cluster in parts for item in cluster.items))


def _gallery_cluster(tree: dict[str, Any], pictures: Pictures) -> GalleryCluster:
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


def _item(text: str, pictures: Pictures) -> GalleryItem:
    image = pictures.find(text)
    return GalleryItem("" if image else text, image)


def _stage_rows(root: Path, held: dict[str, Any]) -> list[StageRow]:
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
        rows.append(StageRow(stage["name"], len(records), seconds, peaks.get(stage["digest"]), rate))
    return rows


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat
