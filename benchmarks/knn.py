"""The KNN graph against faiss and pynndescent: seconds to equal recall on one stand-in, in one run.

    python benchmarks/knn.py [--identities 8573] [--only ours,ivf,...] [--work FOLDER]

Recall is that of neighbours above similarity 0.5 among the 80 nearest, and recall@80, of 10,000 random rows against
exact search. Rivals are tuned (nprobe, efSearch) until they reach ours, or as far as they go; their index building
counts. faiss is searched for 20,000 rows and scaled. ``pip install pynndescent`` for that row. Ours is built in every
run, and every rival's row has the ratio to ours of its own run. Prints a table and replaces the rivals' rows that were
run in ``benchmarks/records/knn.json`` (``knn_N.json`` for another number of identities).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets import STANDINS
from recording import read_rows, write_record
from run_graph import stage_table

from engine import api
from engine.commands.run_folder import stage_folder
from engine.graph import knn
from engine.graph.similarity import listed_similarities
from engine.storage.arrays import map_array
from engine.storage.context import read_npy
from engine.tiles import usable_cores

K, FLOOR = 80, 0.5
QUERIES, TIMED = 10_000, 20_000
GRAPH_STAGES = ("cells_", "probes_", "order", "vertices", "near_", "join_", "check_", "truth", "knn")
NOT_REACHED = "does not reach it"


class Rivals:
    """The data, the exact neighbours of the sampled queries, and how each rival is built and searched."""

    def __init__(self, rows_ND: np.ndarray) -> None:
        self.rows_ND = rows_ND
        rng = np.random.default_rng(7)
        self.timed = np.sort(rng.choice(len(rows_ND), min(TIMED, len(rows_ND)), replace=False))
        self.places = np.sort(rng.choice(len(self.timed), min(QUERIES, len(self.timed)), replace=False))
        self.queries = self.timed[self.places]
        self.exact_MK = knn.neighbors_of_rows(rows_ND, self.queries, K, None, usable_cores())[1]

    def recall(self, found_MK: np.ndarray) -> tuple[float, float]:
        """Recall@80 and recall above 0.5 of neighbours found for the sampled queries."""
        similarities = listed_similarities(self.rows_ND, self.queries, found_MK, threads=usable_cores())
        similarities = np.where(found_MK == self.queries[:, None], -2.0, similarities)
        return knn.measure_recall(-np.sort(-similarities, axis=1)[:, :K], self.exact_MK, FLOOR)

    def faiss_index(self, make: Callable[[], Any], tune: Callable[[Any, int], None], values: list[int], target: float,
                    name: str) -> list[dict[str, Any]]:  # fmt: skip
        """Build an index, then raise its search parameter until the target is reached; every step is a row."""
        index = make()
        started = time.perf_counter()
        if not index.is_trained:
            index.train(self.rows_ND[: 64 * index.nlist])
        index.add(self.rows_ND)
        build = time.perf_counter() - started
        rows: list[dict[str, Any]] = []
        for value in values:
            tune(index, value)
            started = time.perf_counter()
            found = index.search(self.rows_ND[self.timed], K + 1)[1]
            search = (time.perf_counter() - started) * len(self.rows_ND) / len(self.timed)
            recall, above = self.recall(found[self.places].astype(np.int32))
            rows.append(_row(f"{name} {value}", build, search, recall, above))
            if above >= target:
                break
        return rows

    def pynndescent(self) -> list[dict[str, Any]]:
        """Its default settings for 80 neighbours; the compilation is not counted."""
        import pynndescent

        pynndescent.NNDescent(self.rows_ND[:2000], metric="dot", n_neighbors=K + 1, random_state=0)
        started = time.perf_counter()
        index = pynndescent.NNDescent(
            self.rows_ND, metric="dot", n_neighbors=K + 1, random_state=0, n_jobs=usable_cores()
        )
        seconds = time.perf_counter() - started
        recall, above = self.recall(index.neighbor_graph[0][self.queries].astype(np.int32))
        return [_row("pynndescent", seconds, 0.0, recall, above)]


def _row(name: str, build: float, search: float, recall: float, above: float) -> dict[str, Any]:
    row = {
        "name": name, "build_seconds": round(build, 1), "search_seconds": round(search, 1),
        "seconds": round(build + search, 1), "recall": round(recall, 4), "recall_above_floor": round(above, 4),
    }  # fmt: skip
    print(f"{name:32} {row['seconds']:8.1f} s   recall@80 {recall:.3f}   above 0.5 {above:.3f}", flush=True)
    return row


def ours(work: Path, source: Path, rivals: Rivals) -> dict[str, Any]:
    """Our graph's stages, checks and the exact search for their sample included; from and to storage."""
    run = work / "run"
    api.cluster(source, dim=256, workspace=run, method="cosine", knn={"recall": 0.97}, progress=True)
    seconds = sum(row["seconds"] for row in stage_table(run) if row["stage"].startswith(GRAPH_STAGES))
    folder, order = stage_folder(run, "knn"), stage_folder(run, "order")
    assert folder is not None
    neighbors = map_array(folder, "neighbors")
    if order is None:
        return _row("ours", 0.0, seconds, *rivals.recall(np.array(neighbors[rivals.queries])))
    row_of_vertex = np.array(read_npy(order, "row_of_vertex"))
    vertex_of_row = np.empty_like(row_of_vertex)
    vertex_of_row[row_of_vertex] = np.arange(len(row_of_vertex), dtype=np.int32)
    found = np.array(neighbors[vertex_of_row[rivals.queries]])
    return _row("ours", 0.0, seconds, *rivals.recall(np.where(found >= 0, row_of_vertex[found], -1)))


def main() -> None:
    """Make the data, build every graph, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=STANDINS["part1"], help="identities of the stand-in")
    parser.add_argument("--work", type=Path, help="folder for data and the run, kept; default: a temporary one")
    parser.add_argument("--only", default="ivf1024,ivf8192,hnsw,pynndescent", help="rivals to run, by commas")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments.work or Path(temporary), arguments.identities, arguments.only.split(","))


def measure(work: Path, identities: int, only: list[str]) -> None:
    """Run the benchmark in ``work``."""
    part = work / "part1"
    if not (part / "labels.meta").exists():
        api.make_standin(part, identities, 1)
    rows_ND = np.fromfile(part / "features.bin", dtype=np.float32).reshape(-1, 256)
    faiss.normalize_L2(rows_ND)
    faiss.omp_set_num_threads(usable_cores())
    rivals = Rivals(rows_ND)
    results = [ours(work, part / "features.bin", rivals)]
    target = results[0]["recall_above_floor"]
    probes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]

    def ivf(cells: int) -> Any:
        return faiss.IndexIVFFlat(faiss.IndexFlatIP(256), 256, cells, faiss.METRIC_INNER_PRODUCT)

    def set_probes(index: Any, value: int) -> None:
        index.nprobe = value

    def hnsw() -> Any:
        index = faiss.IndexHNSWFlat(256, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
        return index

    def set_search(index: Any, value: int) -> None:
        index.hnsw.efSearch = value

    if "ivf1024" in only:
        results += rivals.faiss_index(lambda: ivf(1024), set_probes, probes[4:], target, "faiss IVF1024 nprobe")
    if "ivf8192" in only:
        results += rivals.faiss_index(lambda: ivf(8192), set_probes, probes[:8], target, "faiss IVF8192 nprobe")
    if "hnsw" in only:
        results += rivals.faiss_index(hnsw, set_search, [100, 200, 400, 800], target, "faiss HNSW32 efSearch")
    if "pynndescent" in only:
        results += rivals.pynndescent()
    own, rivals_rows = results[0], results[1:]
    for row in rivals_rows:
        row |= {"times_ours": round(row["seconds"] / own["seconds"], 2), "ours_seconds": own["seconds"]}
    for name in {row["name"].rsplit(" ", 1)[0]: None for row in rivals_rows}:
        reached = [r for r in rivals_rows if r["name"].startswith(name) and r["recall_above_floor"] >= target]
        print(f"{name}: {reached[0]['times_ours']} x ours" if reached else f"{name}: {NOT_REACHED}")
    settings = {"identities": identities, "num_rows": len(rows_ND), "dim": 256, "k": K, "floor": FLOOR,
                "queries": len(rivals.queries), "timed_queries": len(rivals.timed)}  # fmt: skip
    name = "knn" if identities == STANDINS["part1"] else f"knn_{identities}"
    made = {row["name"] for row in results}
    write_record(name, settings, results + [row for row in read_rows(name) if row["name"] not in made])


if __name__ == "__main__":
    main()
