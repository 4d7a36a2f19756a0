"""Steps of a graph that is not there, for tests of what is planned, and a way to run a step's tasks by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.flow.clusters import make_clusters
from engine.methods.base import Graph
from engine.methods.cosine.steps import CosineScores
from engine.methods.model_card import Model
from engine.runs.step import RUN_STEP, Step, in_order, run_step
from engine.sections import fingerprint
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.crossing import Crossing
from engine.steps.edges import Scores
from engine.steps.ingest import StoredRows
from engine.steps.knn import ExactNeighbors
from engine.storage.context import TaskCall, run_call
from engine.storage.manifest import STAGE_FILE, write_owned
from engine.storage.owned import STAGE


def described_graph(num_rows: int, dim: int, k: int) -> Graph:
    """A graph of a store."""
    rows = StoredRows(num_rows=num_rows, dim=dim, folder="rows")
    return Graph(rows=rows, features=rows, knn=ExactNeighbors(num_rows=num_rows, features=rows, rows=rows, k=k))


def described_scores(num_rows: int, k: int = 10, scores: type[Scores] = CosineScores) -> Scores:
    """Scores of such a graph's edges."""
    knn = described_graph(num_rows, 8, k).knn
    return scores(num_rows=num_rows, knn=knn, min_similarity=0.0, max_edges_per_vertex=0)


def partition_stages(graph: Graph, settings: Settings, model: Model | None = None) -> list[Stage]:
    """The stages from scored edges to ``roots``."""
    score = CosineScores(num_rows=graph.num_rows, knn=graph.knn, min_similarity=0.0, max_edges_per_vertex=0)
    crossing = Crossing(num_rows=graph.num_rows, score=score)
    stages = in_order(make_clusters(graph, settings, model, score, crossing))
    return [stage for stage in stages if stage.name not in ("knn", "score", "crossing")]


def step_call(folder: Path, step: Step[Any], inputs: Mapping[str, Path], threads: int = 2) -> TaskCall:
    """A call of a step whose inputs lie in these folders, by field."""
    (folder / "records").mkdir(parents=True)
    digest = fingerprint(step.name)
    described = replace(step.as_stage(), block_rows=1, digest=digest, step=None)
    write_owned(folder / STAGE_FILE, STAGE, asdict(described))
    paths = {name: str(path) for name, path in inputs.items()}
    return TaskCall(
        RUN_STEP, step.name, digest, str(folder), paths, step.params(), step.located(), step.extent, 0, 1, threads,
        "cpu", step=step,
    )  # fmt: skip


def run_tasks(root: Path, step: Step[Any], cuts: Sequence[int], inputs: Mapping[str, Path]) -> Path:
    """Run a step's tasks between the cuts, last first, and return its folder."""
    call = step_call(root / step.title, step, inputs)
    for start, stop in reversed(list(pairwise(cuts))):
        run_call(replace(call, start=start, stop=stop), run_step)
    return Path(call.folder)
