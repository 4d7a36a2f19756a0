"""What a run's report says in words: its partition, its operating point, and notes on how it came about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.run_folder import stage_folder, vectors_folder
from engine.methods.self_trained.strangers import FEWEST_POINTS
from engine.partitions import OWN, PARTITIONS
from engine.runs.effort import run_effort
from engine.steps.ingest import length_spread
from engine.storage import manifest
from engine.storage.context import stage_facts

_ODDS = float(np.log(9))  # log-odds of a score of 0.9
VARYING = 1.1  # factor between lengths of vectors that is worth a note
SHARED = 0.3  # length of the mean vector that is worth a note


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
    notes, plan = [], manifest.read_run(root)["plan"]
    effort = run_effort(root)
    if effort.executor == "ray":
        notes.append(f"Run on Ray: {effort}.")
    elif effort.executor == "ray_alone":
        notes.append(f"Run on a Ray of its own, on this machine alone: {effort}.")
    rows = plan["facts"]["num_rows"] - _zero_vectors(root)
    nothing_joined = value["num_singletons"] == value["num_clusters"]
    label_free = stage_folder(root, "first") is not None
    if label_free and rows:
        notes += _word_label_free(root, value, nothing_joined)
    elif not label_free and stage_folder(root, "project"):
        what = "Similarities are cosines in a metric that the model learned from its training labels"
        second = ", and scores are of two graphs: of that metric, and of the vectors as they are"
        notes.append(f"{what}{second if stage_folder(root, 'second_listed') else ''}.")
    if (said := stage_folder(root, "said")) and not stage_folder(root, "first"):
        if stage_facts(said)[0]["enough"]:
            what = "Two estimates that need no labels agree with the model's scores, which stand as they are."
        else:
            what = "The model does not fit this data: two estimates that need no labels find its probabilities far "
            what += "off. The run went on without it, as if no model had been given."
        notes.append(what)
    notes += _word_decisions(root)
    listed = next((stage["params"].get("k") for stage in plan["stages"] if stage["name"] == "knn"), None)
    learned_of = plan["facts"].get("model_k", listed)
    if learned_of != listed:
        notes.append(f"The model learned from graphs of {learned_of} neighbours, this one has {listed} (knn.k).")
    given: dict[str, Any] = next(
        (stage["params"].get("given", {}) for stage in plan["stages"] if stage["name"] == "roots"), {}
    )
    if "reason" in point and given.get("min_score") is None and not (label_free and _facts(root, "first")["no_gap"]):
        notes.append(
            "No threshold was given and no model trained on such data: the operating point is read from the graph. "
            f"{point['reason']}"
        )
    if nothing_joined and rows > 1 and not (label_free and _too_few(root)):
        notes.append(
            "No two rows were found to belong together; --precision-bias -2, for example, asks for less proof."
        )
    if "metrics" in value:
        notes.append("The identities given served for the scores in this report only, never for the clusters.")
    if value["num_dropped"]:
        were = "row was" if value["num_dropped"] == 1 else "rows were"
        notes.append(
            f"{value['num_dropped']:,} {were} left out (label -1): zero vectors, or rows with NaN or missing values."
        )
    elif zeros := _zero_vectors(root):
        notes.append(f"{zeros:,} rows are zero vectors, which have no direction: each is a cluster of its own.")
    spread = length_spread(vectors_folder(root))
    if spread > VARYING:
        notes.append(
            f"Vectors differ in length, typically by a factor of {spread:.2g}; only directions count here, as "
            f"similarity is the cosine. If lengths matter to you, make them part of the direction before clustering."
        )
    return notes


def _word_decisions(root: Path) -> list[str]:
    """Say what people's answers changed."""
    answers = stage_folder(root, "answers")
    if answers is None:
        return []
    told, held = stage_facts(answers)[0], stage_folder(root, "held")
    note = f"People's answers hold: {told['same']:,} pairs the same, {told['different']:,} different"
    note += f", {told['confirmed']:,} pairs of confirmed clusters" if told["confirmed"] else ""
    if held is not None:
        facts = stage_facts(held)[0]
        note += f". The scores alone would have had {facts['joined']:,} of them apart and {facts['parted']:,} together."
    notes = [note]
    fitted = stage_folder(root, "recalibration")
    if fitted is None:
        notes.append("Cosines are no probabilities, so the answers moved no score.")
        return notes
    facts = stage_facts(fitted)[0]
    if facts["slope"] == 1 and not facts["offset"]:
        notes.append(f"{facts['answers']:,} of the answers are about edges of the graph, and they moved no score.")
        return notes
    even, sure = _probability(-facts["offset"] / facts["slope"]), _probability(facts["slope"] * _ODDS + facts["offset"])
    notes.append(
        f"{facts['answers']:,} of the answers are about edges of the graph, and by them all scores were corrected: "
        f"what scored 0.9 now scores {sure:.3g}, and even odds lie where the score was {even:.3g}."
    )
    return notes


def _probability(odds: float) -> float:
    return float(1 / (1 + np.exp(-odds)))


def _zero_vectors(root: Path) -> int:
    folder = stage_folder(root, "ingest")
    return sum(len(facts["zero_rows"]) for facts in stage_facts(folder)) if folder else 0


def _facts(root: Path, name: str) -> dict[str, Any]:
    folder = stage_folder(root, name)
    return stage_facts(folder)[0] if folder else {}


def _word_levels(root: Path, no_gap: bool) -> list[str]:
    """Say that there is a second answer, what it is, and how to get it."""
    facts = _facts(root, "levels")
    second = facts.get("second")
    if not second:
        return []
    count, alone = facts["num_clusters"], facts["num_singletons"]
    few = f"{count:,} {second} clusters{f' ({alone:,} of them single rows)' if alone else ''}"
    if no_gap:
        why = f"A second answer is there, too: {few}, in which strangers do not explain how similar rows are"
    else:
        modules = f"{few}, the modules of the neighbour graph, such as topics where the first answer has wordings"
        why = "Few pairs are much more similar than strangers, so there may be a second answer: "
        why += "one cluster of all rows" if count == 1 else modules
    return [f"{why}. asterism export RUN --level 2 --out labels.npy writes it; tables have it as column level_2."]


def _too_few(root: Path) -> bool:
    """Tell whether fewer distinct rows count than any line of strangers can be fitted to."""
    return bool(_facts(root, "strangers")["rows"] <= FEWEST_POINTS)


def _word_label_free(root: Path, value: dict[str, Any], nothing_joined: bool) -> list[str]:
    """Say how a run without labels found its clusters."""
    fitted, strangers, no_gap = _facts(root, "fit"), _facts(root, "strangers"), _facts(root, "first")["no_gap"]
    copies, too_few = _facts(root, "copies").get("copies", 0), _too_few(root)
    what = "No labels and no model were given. "
    if too_few and strangers["rows"] == 1:
        what += "All rows have one vector."
    elif too_few:
        what += f"{strangers['rows']} distinct rows are too few to say how similar strangers are: only rows of one "
        what += "vector were joined. With --set partition.min_score=0.5, for example, a threshold decides instead."
    elif nothing_joined:
        what += "Strangers explain how similar the rows are."
    elif no_gap:
        what += "Strangers explain nearly all pairs, yet neighbours have the same neighbours: clusters run into each "
        what += "other, or are larger than the number of neighbours. They are the modules of the neighbour graph"
    else:
        what += "Rows were joined where strangers do not explain how similar they are "
        what += f"({_facts(root, 'said')['expected']:,.0f} pairs of neighbours are expected to belong together)"
    if too_few or nothing_joined:
        pass
    elif fitted["edges"]:
        what += "; a scorer was fitted where a second opinion agrees, and it ranked all pairs."
        if fitted.get("second_graph"):
            what += " In a second graph, of a metric learned from them, this was done again: scores are of both."
    elif no_gap:
        what += ", which gave nothing more to learn from, so they stand."
    else:
        what += "; they gave nothing more to learn from."
    notes = [what, *_word_levels(root, no_gap)]
    if copies:
        notes.append(
            f"{copies:,} rows are copies or near-copies of other rows. They counted once, and got the same label."
        )
    shared = _facts(root, "centre").get("shared", 0.0)
    if shared > SHARED and not too_few:
        share = f"The mean of all vectors has length {shared:.2f} (1: all are the same); it was taken away first."
        if 2 * value["num_singletons"] > value["num_clusters"]:
            share += (
                " If all rows were of one identity, the vectors would look the same as unrelated ones that share a "
            )
            share += "direction: no method can tell these apart without labels."
        notes.append(share)
    return notes
