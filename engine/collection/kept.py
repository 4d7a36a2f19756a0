"""What a collection rests on: where the arrays of a full run, or of a compaction, lie.

A full run keeps its graphs, its scorer and its scored edges. So version 0 of a collection is the run itself: nothing is
copied. A compaction writes the same arrays anew, and its ``kept.json`` says where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from engine.errors import ConfigError, DataError
from engine.graph.overlaps import AVERAGED
from engine.methods.cosine.steps import CosineScores
from engine.methods.fitting import FITTED_WEIGHTS
from engine.methods.self_trained.odds import CorrectedScores
from engine.methods.self_trained.steps import EvidenceScores
from engine.methods.self_trained.strangers import BACKGROUND_RANKS
from engine.methods.structural.steps import NeighborhoodStep, StructuralScores
from engine.runs.step import Outside, Step
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.copies import NoCopies
from engine.steps.decisions import AnsweredScores, Held
from engine.steps.explain import Evidence
from engine.steps.ingest import Vectors, row_column
from engine.steps.knn import Knn, Order, Vertices
from engine.steps.metric import WEIGHTS, Project
from engine.storage.context import is_committed, stage_facts
from engine.storage.manifest import read_run

S = TypeVar("S", bound=Step[Any])
Where = tuple[str, str]  # a stage's folder, and the name of an array or file in it
PREFIXES = ("first_", "second_")  # before the names of a graph's arrays


@dataclass(frozen=True)
class KeptGraph:
    """A graph: its ``arrays`` by what they hold, its numbering, and the metric in which its vectors lie.

    ``order``: the row of each vertex; ``offsets``: where its cells begin; both ``None`` if vertices are rows.
    """

    arrays: Mapping[str, Where]
    order: Where | None
    offsets: Where | None
    metric: str | None


@dataclass(frozen=True)
class Kept:
    """All that a version without layers holds.

    ``edges``: the folder of the scored edges. ``scorer``: the file of the structural scorer, ``None`` for cosines.
    ``slope``, ``offset``: what its log-odds are corrected by. ``rows``: the folder of the rows' ids and items.
    ``labels``: the cluster of each row. ``leaders``: the row that stands for each row's copies.
    ``point``: the operating point.
    ``next_row``: the number that the next row without an id gets as id. ``removed``: how many rows were removed so far.
    ``answers``: the folder of decided pairs of rows. ``strangers``: the folder of what scored edges where first
    clusters taught no scorer. ``changed``: the folder of ``State.changed_VS``, where that is not 0. ``facts``: how the
    partition was set, and what ``engine.collection.since`` adds up.
    """

    num_rows: int
    k: int
    learned: bool
    seed: int
    graphs: tuple[KeptGraph, ...]
    edges: str
    scorer: str | None
    slope: float
    offset: float
    min_similarity: float
    max_edges_per_vertex: int
    point: dict[str, Any]
    rows: str
    labels: Where
    leaders: Where | None
    next_row: int
    removed: int = 0
    answers: str | None = None
    strangers: str | None = None
    changed: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Kept:
        """Read what ``asdict`` gave and JSON kept."""

        def place(value: Any) -> Where | None:
            return None if value is None else (str(value[0]), str(value[1]))

        graphs = tuple(
            KeptGraph(
                {name: (str(at[0]), str(at[1])) for name, at in each["arrays"].items()},
                place(each["order"]),
                place(each["offsets"]),
                each["metric"],
            )
            for each in tree["graphs"]
        )
        labels = place(tree["labels"])
        assert labels is not None
        return cls(**{**tree, "graphs": graphs, "labels": labels, "leaders": place(tree["leaders"])})


def kept_by_run(root: Path, stages: Sequence[Stage], settings: Settings) -> Kept:
    """Find what a finished run keeps. ``stages``: those of its plan, with their steps.

    Raises ``ConfigError`` for a run whose method no update knows, or that learned nothing, and ``DataError`` for one
    that is not finished.
    """
    found = _Finder(root)
    explain = next((stage.step for stage in stages if isinstance(stage.step, Evidence)), None)
    if explain is None:
        raise ConfigError(f"{root}: a run of a method that clusters by itself has no scores to update")
    score, slope, offset = found.standing(explain.score), 1.0, 0.0
    copies = found.standing(explain.copies) if explain.copies is not None else None
    if isinstance(score, AnsweredScores):
        told = found.facts(score.recalibration)
        slope, offset, score = float(told["slope"]), float(told["offset"]), found.standing(score.score)
    if isinstance(score, CorrectedScores):
        said = found.facts(score.said)
        offset, slope = offset - slope * float(said["slope"]) * float(said["even"]), slope * float(said["slope"])
        score = found.standing(score.score)
    labels = explain.labels
    roots: Step[Any] = labels.roots
    answers = roots.answers if isinstance(roots, Held) else None
    roots = found.standing(roots.roots if isinstance(roots, Held) else roots)
    shared: dict[str, Any] = {
        "num_rows": score.num_rows,
        "k": score.knn.k,
        "learned": explain.learned,
        "seed": settings.seed,
        "edges": found.folder(explain.score),
        "slope": slope,
        "offset": offset,
        "min_similarity": score.min_similarity,
        "max_edges_per_vertex": score.max_edges_per_vertex,
        "point": found.facts(roots),
        "rows": found.folder(labels.rows),
        "labels": (found.folder(labels), "labels"),
        "leaders": None if copies is None or isinstance(copies, NoCopies) else (found.folder(copies), "leaders"),
        "answers": found.folder(answers) if answers is not None else None,
        "next_row": score.num_rows,
        "facts": {"step": settings.partition.step, "precision_bias": settings.partition.precision_bias},
    }
    named = row_column(found.root / shared["rows"], "id") is not None
    shared["facts"] |= {"named": named, "contents": [] if named else [[found.source, 0, score.num_rows, 0]]}
    if isinstance(score, CosineScores):
        return Kept(graphs=(_plain_graph(found, score.knn, explain.order),), scorer=None, **shared)
    if not isinstance(score, StructuralScores):
        raise ConfigError(
            f"{root}: updates know the scores of self_trained, structural and cosine, not those of {score.kind}; "
            f"cluster all vectors in a new run instead"
        )
    if score.first is not None and score.fit is not None and not found.facts(score.fit)["trees"]:
        assert isinstance(score.otherwise, EvidenceScores)
        distinct = score.num_rows - (found.facts(copies)["copies"] if copies is not None else 0)
        if found.facts(score.first)["no_gap"] or distinct <= BACKGROUND_RANKS:
            raise ConfigError(
                f"{root}: its {distinct:,} distinct rows do not tell what new rows belong to; cluster all vectors in a "
                f"new run instead"
            )
        shared["strangers"] = found.folder(score.otherwise.strangers)
        return Kept(graphs=(_plain_graph(found, score.knn, explain.order),), scorer=None, **shared)
    scorer = f"{found.folder(score.fit)}/{FITTED_WEIGHTS}" if score.fit is not None else score.weights
    graphs = [_scored_graph(found, score, score.order or score.knn.order, score.prior)]
    if score.second is not None:
        other = _scored_graph(found, score.second, score.second_order or score.second.knn.order, score.second.prior)
        listed = {"listed": (found.folder(score.second), "scores")}
        graphs.append(replace(other, arrays={**other.arrays, **listed}))
    return Kept(graphs=tuple(graphs), scorer=scorer, **shared)


def _plain_graph(found: _Finder, knn: Knn, order: Order | None) -> KeptGraph:
    graph = found.folder(knn)
    arrays = {
        "features": (found.folder(knn.features), "features"),
        "neighbors": (graph, "neighbors"),
        "similarities": (graph, "similarities"),
    }
    if order is None:
        return KeptGraph(arrays, None, None, found.metric(knn.features))
    placed = found.folder(order)
    return KeptGraph(arrays, (placed, "row_of_vertex"), (placed, "cell_offsets"), found.metric(knn.features))


def _scored_graph(found: _Finder, step: NeighborhoodStep[Any], order: Order | None, prior: Step[Any]) -> KeptGraph:
    plain, around = _plain_graph(found, step.knn, order), found.folder(step.neighborhoods)
    arrays = {**plain.arrays, "profiles": (around, "profiles"), "priors": (found.folder(prior), "priors")}
    arrays |= {f"averages_{count}": (around, f"averages_{count}") for count in AVERAGED}
    if step.neighborhoods.originals is not None:
        arrays["originals"] = (around, "originals")
    return replace(plain, arrays=arrays)


class _Finder:
    """Folders of a run's steps, as its manifest names them. ``source``: the digest of the run's vectors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        held = read_run(root)
        self.source = str(held["request"]["source"]["digest"])
        self._digests = {stage["name"]: (stage["digest"], stage["num_rows"]) for stage in held["plan"]["stages"]}
        self._unless = {stage["name"]: stage["instead"] for stage in held["plan"]["stages"] if stage.get("instead")}

    def folder(self, step: Step[Any]) -> str:
        """The folder of a finished step; of the one that stands for it if it was not needed."""
        if isinstance(step, Outside):
            return step.name
        name = step.name
        while True:
            if name not in self._digests:
                raise DataError(f"{self.root}: stage {name} is not in the run's plan; asterism resume {self.root}")
            digest, num_rows = self._digests[name]
            folder = self.root / f"{name}-{digest[:12]}"
            if is_committed(folder, digest, num_rows):
                return folder.name
            if name not in self._unless:
                raise DataError(f"{folder}: not finished; asterism resume {self.root}")
            name = self._unless[name]

    def standing(self, step: S) -> S:
        """The step itself, or the one that stands for it because a check found enough."""
        while step.unless is not None and step.instead is not None and self.facts(step.unless)["enough"]:
            step = cast(S, step.instead)
        return step

    def facts(self, step: Step[Any]) -> dict[str, Any]:
        """The facts of a finished step's first task."""
        return dict(stage_facts(self.root / self.folder(step))[0])

    def metric(self, vectors: Vectors[Any]) -> str | None:
        """The file of the metric in which vectors lie, ``None`` if they lie as they were given."""
        if isinstance(vectors, Vertices):
            return self.metric(vectors.vectors)
        if not isinstance(vectors, Project):
            return None
        return vectors.weights if vectors.metric is None else f"{self.folder(vectors.metric)}/{WEIGHTS}"
