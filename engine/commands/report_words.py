"""What a run's report says in words: its partition, its operating point, and notes on how it came about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.commands.run_folder import stage_folder
from engine.partitions import OWN, PARTITIONS
from engine.runs.effort import run_effort
from engine.storage import manifest
from engine.storage.context import stage_facts


def word_partition(name: str) -> str:
    """Name a partition."""
    return "which clusters by itself" if name == OWN else PARTITIONS[name].words


def word_point(point: dict[str, Any]) -> str:
    """Word the thresholds that a run used."""
    if point["partition"] == OWN:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in point.items() if name != "partition")
    score = f"score ≥ {point['min_score']:.3g}"
    if "unbiased_min_score" in point:
        score += f" ({point['unbiased_min_score']:.3g} without the precision bias)"
    return ", ".join([score, *PARTITIONS[point["partition"]].point_words(point)])


def word_notes(root: Path, value: dict[str, Any], point: dict[str, Any]) -> list[str]:
    """Say what a reader of the report should know: how the clusters came about, and what is unusual.

    ``value``: what the stage ``analysis`` wrote. ``point``: the operating point.
    """
    notes = []
    effort = run_effort(root)
    if effort.executor == "ray":
        notes.append(f"Run on Ray: {effort}.")
    first, fitted, strangers = (stage_folder(root, name) for name in ("first", "fit", "strangers"))
    if first and fitted and strangers:
        facts, expected = stage_facts(fitted)[0], stage_facts(strangers)[0]["expected"]
        what = "No labels and no model were given. Rows were joined where strangers do not explain how similar they are"
        if stage_facts(first)[0]["no_gap"]:
            what = "No labels and no model were given. No pair is more similar than strangers explain, yet neighbours "
            what += "have the same neighbours: clusters are those that describe a walk on the graph in the fewest bits"
        else:
            what += f" ({expected:,.0f} pairs of neighbours are expected to belong together)"
        if facts["edges"]:
            what += "; a scorer was fitted where a second opinion, by codelength, agrees, and it decided all pairs."
            if facts.get("second_graph"):
                what += " In a second graph, of a metric learned from them, this was done again: scores are of both."
        else:
            what += "; they gave nothing more to learn from, so they stand, whatever the precision bias."
        notes.append(what)
    elif stage_folder(root, "project"):
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
