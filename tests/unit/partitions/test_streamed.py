"""Stages prune and merge: one result for any cut into tasks, parts and pieces, equal to scipy's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from engine.clustering import evidence, label_free
from engine.clustering.csr import build_adjacency, build_weighted_adjacency
from engine.clustering.density_peaks import density_peaks
from engine.clustering.map_equation import map_equation
from engine.clustering.propagation import propagate
from engine.clustering.pruning import node_intimacy
from engine.errors import ConfigError
from engine.methods.cosine.steps import CosineScores
from engine.partitions import PARTITIONS, Edges, components
from engine.partitions.components import Components, KeptAdjacency, Merge, Prune
from engine.partitions.density_peaks import Densities, DensityLinked, Links
from engine.partitions.map_equation import Modules
from engine.partitions.propagation import Propagated, StrongestEdges
from engine.runs.step import Step, Task, run_step
from engine.settings import Settings
from engine.stages import Cost
from engine.steps.crossing import Crossing, CrossingFacts, Incident, join_facts
from engine.steps.edges import EdgeFacts, Scores, iterate_edges, read_edges
from engine.storage.context import TaskCall, read_npy, run_call, stage_facts
from engine.storage.tables import read_columns
from engine.units import CHUNK_ROWS
from tests.support.toy_graphs import unit
from tests.support.toy_stages import MortalComponents
from tests.support.toy_steps import described_graph, described_scores, partition_stages, run_tasks, step_call

N = 5 * CHUNK_ROWS + 17
POINT = {"min_score": 0.3, "min_intimacy": 0.0}


def random_edges() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges in the order of their owners, few enough that components of many sizes remain; some lie at a threshold."""
    random = np.random.default_rng(3)
    owners = np.sort(random.integers(0, N, N)).astype(np.int32)
    others = ((owners + random.integers(1, 5000, N)) % N).astype(np.int32)
    scores = random.random(N, np.float32)
    scores[::40] = 0.3
    return owners, others, scores


class RandomScores(CosineScores):
    """The random edges as a step's table."""

    kind, version = "random", 1

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        sources, targets, scores = random_edges()
        owned = (sources >= start) & (sources < stop)
        counts = np.bincount((sources[owned] - start) // CHUNK_ROWS, minlength=-(-(stop - start) // CHUNK_ROWS))
        columns = {"source": sources, "target": targets, "score": scores, "similarity": scores}
        task.write_table("edges", {name: column[owned] for name, column in columns.items()})
        return EdgeFacts(counts.tolist(), int(owned.sum()))


SCORE = described_scores(N, scores=RandomScores)
CROSSING = Crossing(num_rows=N, score=SCORE)


def pruning(point: dict[str, float] = POINT, adjacency: KeptAdjacency | None = None, bias: float = 0.0) -> Prune:
    return Prune(
        num_rows=N, score=SCORE, adjacency=adjacency, chosen=None, given=point, precision_bias=bias, learned=True
    )


def merging(prune: Prune | None = None) -> Merge:
    return Merge(num_rows=N, prune=prune or pruning())


def chunks(*cuts: int) -> list[int]:
    return [*(cut * CHUNK_ROWS for cut in cuts), N]


def roots_of(
    root: Path, score: Path, cuts: list[int], merge_cuts: list[int], prune: Prune, **inputs: Path
) -> np.ndarray:
    pruned = run_tasks(root, prune, cuts, {"score": score, **inputs})
    merge = merging(prune)
    merged = run_tasks(root, merge, merge_cuts, {"prune": pruned})
    step = Components(merge=merge, chosen=None, given=prune.given, precision_bias=0.0, learned=True)
    return np.array(read_npy(run_tasks(root, step, [0, 1], {"merge": merged}), "roots"))


def scipy_roots(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    _, labels = connected_components(coo_array((np.ones(len(sources)), (sources, targets)), shape=(N, N)), False)
    first = np.full(N, N)
    np.minimum.at(first, labels, np.arange(N))
    return first[labels]


@pytest.mark.parametrize("cuts", [chunks(0), chunks(0, 2, 3), chunks(0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("merge_cuts", [[0, N], chunks(0, 3)])
def test_roots_are_the_same_for_any_cut(
    cuts: list[int], merge_cuts: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "PIECE_CHUNKS", 2)
    score = run_tasks(tmp_path, SCORE, chunks(0, 4), {})
    sources, targets, scores = random_edges()
    kept = scores >= np.float32(0.3)
    expected = scipy_roots(sources[kept], targets[kept])
    assert len(np.unique(expected)) > 1000
    assert np.array_equal(roots_of(tmp_path, score, cuts, merge_cuts, pruning()), expected)


def test_intimacy_prunes_the_same_edges_in_any_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, targets, scores = random_edges()
    kept = scores >= np.float32(0.3)
    sources, targets = sources[kept], targets[kept]
    intimacy = node_intimacy(*build_adjacency(N, lambda: [(sources, targets)]), sources, targets)
    threshold = float(np.median(intimacy))
    close = intimacy >= np.float32(threshold)
    assert 0 < close.sum() < len(close)
    point = {"min_score": 0.3, "min_intimacy": threshold}
    score = run_tasks(tmp_path, SCORE, chunks(0, 4), {})
    for pieces, cuts in ((1, chunks(0, 2)), (3, chunks(0, 1, 3))):
        root = tmp_path / str(pieces)
        crossing = run_tasks(root, CROSSING, cuts, {"score": score})
        step = KeptAdjacency(
            num_rows=N, score=SCORE, crossing=CROSSING, chosen=None, given=point, precision_bias=0.0, learned=True
        )
        adjacency = run_tasks(root, step, chunks(0, 4), {"score": score, "crossing": crossing})
        monkeypatch.setattr(components, "PIECE_CHUNKS", pieces)
        roots = roots_of(root, score, cuts, [0, N], pruning(point, step), adjacency=adjacency)
        assert np.array_equal(roots, scipy_roots(sources[close], targets[close]))


def test_all_edges_of_a_range_are_read_in_the_order_of_their_owners(tmp_path: Path) -> None:
    expected = [row.tolist() for row in np.stack(random_edges())[:2].T.astype(int)]
    for number, cuts in enumerate((chunks(0), chunks(0, 1, 4))):
        root = tmp_path / str(number)
        score = run_tasks(root, SCORE, chunks(0, 2), {})
        crossing = run_tasks(root, CROSSING, cuts, {"score": score})
        facts = [CrossingFacts(**each) for each in stage_facts(crossing)]
        assert join_facts(facts).score == [float(random_edges()[2].min()), float(random_edges()[2].max())]
        inputs = {"score": score, "crossing": crossing}
        call = step_call(root / "reader", Reader(score=SCORE, crossing=CROSSING), inputs)
        found = run_call(call, run_step).facts
        start, stop = found["bounds"]
        assert sorted(map(sorted, found["edges"])) == sorted(
            sorted(ends) for ends in expected if any(start <= end < stop for end in ends)
        )
        places = {tuple(sorted(ends)): place for place, ends in reversed(list(enumerate(expected)))}
        own = [places[tuple(sorted(ends))] for ends in found["edges"]]
        owners = [expected[place][0] for place in own]
        rows = [next(end for end in ends if start <= end < stop) for ends in found["edges"]]
        for row in set(rows):  # the edges of one row are in the order of their owners
            of_row = [owner // CHUNK_ROWS for owner, each in zip(owners, rows, strict=True) if each == row]
            assert of_row == sorted(of_row)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader(Step[dict[str, Any]]):
    """Tells the edges that end in the second and third chunk."""

    kind, version, title = "reader", 1, "reader"
    score: Scores
    crossing: Crossing

    def cost(self) -> Cost:
        return Cost()

    def run(self, task: Task, start: int, stop: int) -> dict[str, Any]:
        bounds = CHUNK_ROWS, 3 * CHUNK_ROWS
        pieces = Incident(task, self.score, self.crossing).read(*bounds)
        ends = np.concatenate([np.stack(piece[:2], axis=1) for piece in pieces])
        return {"bounds": bounds, "edges": ends.tolist()}


def test_forests_of_blocks_propagate_as_all_edges(tmp_path: Path) -> None:
    expected = propagate(N, *random_edges(), min_score=0.4, max_size=30, step=0.05)
    given: dict[str, Any] = {"score": SCORE, "chosen": None, "given": {"min_score": 0.4, "max_size": 30}, "step": 0.05}
    given |= {"precision_bias": 0.0, "learned": True}
    forest = StrongestEdges(num_rows=N, **given)
    step = Propagated(forest=forest, **given)
    score = run_tasks(tmp_path, SCORE, chunks(0, 4), {})
    for number, cuts in enumerate((chunks(0), chunks(0, 1, 3))):
        root = tmp_path / str(number)
        inputs = {"score": score, "forest": run_tasks(root, forest, cuts, {"score": score})}
        assert np.array_equal(read_npy(run_tasks(root, step, [0, 1], inputs), "roots"), expected)


def test_pieces_of_several_chunks_hold_the_edges_of_single_ones(tmp_path: Path) -> None:
    score = run_tasks(tmp_path, SCORE, chunks(0, 4), {})
    names = ("source", "target")
    single = list(iterate_edges(score, names))
    assert len(single) == 6
    joined = list(read_edges(score, CHUNK_ROWS, N, names, 2))
    assert [len(piece[0]) for piece in joined] == [
        len(single[1][0]) + len(single[2][0]), len(single[3][0]), len(single[4][0]) + len(single[5][0])
    ]  # fmt: skip
    for column in (0, 1):
        assert np.array_equal(
            np.concatenate([piece[column] for piece in joined]), np.concatenate([piece[column] for piece in single[1:]])
        )


def test_forests_are_the_same_bytes_for_any_number_of_parts(tmp_path: Path) -> None:
    forests = []
    for number, cuts in enumerate((chunks(0), chunks(0, 1, 3))):
        root = tmp_path / str(number)
        score = run_tasks(root, SCORE, cuts, {})
        pruned = run_tasks(root, pruning(), cuts, {"score": score})
        merged = run_tasks(root, merging(), [0, N], {"prune": pruned})
        (path,) = (merged / "forest").iterdir()
        forests.append(read_columns(path, ("member", "root")))
    for one, other in zip(*forests, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.fixture
def merged_forests(tmp_path: Path) -> Path:
    score = run_tasks(tmp_path, SCORE, chunks(0, 4), {})
    pruned = run_tasks(tmp_path, pruning(), chunks(0, 1, 2, 4), {"score": score})
    return run_tasks(tmp_path, merging(), chunks(0, 1, 3), {"prune": pruned})


def components_call(folder: Path, merged: Path, kind: type[Components] = Components, **where: Any) -> TaskCall:
    step = kind(merge=merging(), chosen=None, given=POINT, precision_bias=0.0, learned=True, **where)
    return step_call(folder, step, {"merge": merged})


def test_roots_united_in_ranges_are_the_same_bytes(merged_forests: Path, tmp_path: Path) -> None:
    files = []
    for ranges in (1, 2, 7):
        record = run_call(components_call(tmp_path / str(ranges), merged_forests, ranges=ranges), run_step)
        files.append((tmp_path / str(ranges) / "roots.npy").read_bytes())
    assert record.facts["ranges"] == 7
    assert files[0] == files[1] == files[2]


@pytest.mark.slow
@pytest.mark.ray
def test_a_range_that_dies_is_another_attempt_with_the_same_bytes(
    ray_session: None, merged_forests: Path, tmp_path: Path
) -> None:
    from engine.executors.ray import RayExecutor

    run_call(components_call(tmp_path / "one", merged_forests), run_step)
    marker = str(tmp_path / "died")
    call = components_call(tmp_path / "roots", merged_forests, MortalComponents, ranges=2, marker=marker)
    executor = RayExecutor(workers=1, threads=1)
    (first,) = executor.run([call])
    assert first.retry
    assert isinstance(first.error, ConnectionError)
    assert "tests.support.toy_stages:MortalRange" in str(first.error)
    assert not (tmp_path / "roots" / "roots.npy").exists()
    (second,) = executor.run([call])
    executor.close()
    assert second.record, second.details
    assert (tmp_path / "roots" / "roots.npy").read_bytes() == (tmp_path / "one" / "roots.npy").read_bytes()


def test_ranges_are_no_part_of_what_a_stage_is() -> None:
    config = {"method": "components", "min_score": 0.5, "min_intimacy": 0.0}
    few, many = (
        planned(Settings(method="cosine", partition={**config, "union_find_ranges": asked}))[-1] for asked in (0, 4)
    )
    assert (few.where["ranges"], many.where["ranges"]) == (1, 4)
    assert few.params == many.params


def test_edge_weights_are_what_the_setting_says() -> None:
    scores = np.array([0.3, 0.5, 0.9, 1.0], np.float32)
    assert evidence.edge_weights(scores, "score").tolist() == scores.tolist()
    odds = evidence.edge_weights(scores, "log_odds")
    assert odds == pytest.approx([np.log(3 / 7), 0, np.log(9), np.log(1e6)], abs=1e-5)
    assert evidence.edge_weights(scores, "exponential", bandwidth=0.2) == pytest.approx(np.exp((scores - 1) / 0.2))


@pytest.mark.parametrize("weight", ["score", "log_odds", "exponential"])
def test_modules_are_the_kernels_over_the_edges_above_the_floor(weight: str, tmp_path: Path) -> None:
    sources, targets, scores = random_edges()
    kept = scores >= np.float32(0.55)
    edges = sources[kept], targets[kept], evidence.edge_weights(scores[kept], weight, 0.55, 0.2)
    graph = build_weighted_adjacency(N, lambda: [edges])
    expected = map_equation(*graph, seed=3)
    point = {"min_score": 0.55, "weight": weight, "bandwidth": 0.2}
    for ranges, cuts in ((1, chunks(0)), (2, chunks(0, 3, 4)), (7, chunks(0, 1, 3)), (64, chunks(0))):
        root = tmp_path / str(ranges)
        step = replace(modules(point), ranges=ranges)
        inputs = {"score": run_tasks(root, SCORE, cuts, {})}
        inputs["crossing"] = run_tasks(root, CROSSING, cuts, inputs)
        folder = run_tasks(root, step, [0, 1], inputs)
        assert np.array_equal(read_npy(folder, "roots"), expected.roots_N)
        (facts,) = stage_facts(folder)
        assert (facts["edges_kept"], facts["codelength"]) == (len(graph[1]) // 2, expected.codelength)


def modules(point: dict[str, Any], bias: float = 0.0) -> Modules:
    given: dict[str, Any] = {"chosen": None, "given": point, "precision_bias": bias, "learned": True}
    return Modules(score=SCORE, crossing=CROSSING, seed=3, offered=10, **given)


def test_modules_at_a_bias_are_those_of_the_edges_in_memory(tmp_path: Path) -> None:
    point = {"min_score": 0.55, "weight": "score"}
    shared: dict[str, Any] = {"learned": True, "step": 0.05, "seed": 3, "threads": 1}
    find = PARTITIONS["map_equation"].find(Edges(*random_edges()), N, point, **shared)
    inputs = {"score": run_tasks(tmp_path, SCORE, chunks(0), {})}
    inputs["crossing"] = run_tasks(tmp_path, CROSSING, chunks(0), inputs)
    for bias in (-1.5, 1.0):
        step = replace(modules(point, bias), ranges=2)
        folder = run_tasks(tmp_path / str(bias), step, [0, 1], inputs)
        assert np.array_equal(read_npy(folder, "roots"), find(bias))


def test_density_peaks_are_the_kernels_over_all_edges(tmp_path: Path) -> None:
    expected = density_peaks(N, *random_edges(), 0.55)
    given: dict[str, Any] = {"score": SCORE, "chosen": None, "given": {"min_score": 0.55}}
    given |= {"precision_bias": 0.0, "learned": True}
    densities = Densities(num_rows=N, crossing=CROSSING, **given)
    links = Links(num_rows=N, crossing=CROSSING, densities=densities, **given)
    for number, cuts in enumerate((chunks(0), chunks(0, 1, 3))):
        root = tmp_path / str(number)
        inputs = {"score": run_tasks(root, SCORE, cuts, {})}
        inputs["crossing"] = run_tasks(root, CROSSING, cuts, inputs)
        dense = run_tasks(root, densities, cuts, inputs)
        linked = run_tasks(root, links, chunks(0, 4), {**inputs, "densities": dense})
        folder = run_tasks(root, DensityLinked(links=links, **given), [0, 1], {**inputs, "links": linked})
        assert np.array_equal(read_npy(folder, "roots"), expected)
    *_, stage = planned(Settings(method="cosine", partition={"method": "density_peaks", "min_score": 0.4}))
    assert stage.params["given"] == {"min_score": 0.4}
    found = [stage.name for stage in planned(Settings(method="cosine", partition={"method": "density_peaks"}))]
    # where no floor is set one is chosen
    assert found == ["point_forest", "point_tree", "point_walk", "point", "densities", "density_links", "roots"]


def planned(settings: Settings, model=None):  # type: ignore[no-untyped-def]
    return partition_stages(described_graph(1000, 8, 10), settings, model)


def test_the_map_equation_is_one_stage_with_its_settings() -> None:
    (stage,) = planned(Settings(method="cosine", partition={"method": "map_equation", "min_score": 0.4}, seed=7))
    assert stage.params["given"] == {"min_score": 0.4, "weight": "exponential", "bandwidth": 0.1}
    assert stage.params["seed"] == 7
    (other,) = planned(Settings(method="cosine", partition={"method": "map_equation", "weight": "score"}))
    assert other.params["given"] == {"min_score": label_free.LEAST_COSINE, "weight": "score"}
    (learned,) = planned(Settings(method="star_fc", partition={"method": "map_equation"}))
    assert learned.params["given"] == {"min_score": label_free.LEAST_PROBABILITY, "weight": "log_odds"}
    with pytest.raises(ConfigError, match="log_odds needs probabilities"):
        planned(Settings(method="cosine", partition={"method": "map_equation", "weight": "log_odds"}))


def test_a_precision_bias_doubles_the_odds_asked_for(tmp_path: Path) -> None:
    assert evidence.biased_score(0.5, 1.0, True) == pytest.approx(2 / 3)
    assert evidence.biased_score(0.75, -2.0, True) == pytest.approx(3 / 7)
    assert evidence.biased_score(1.0, 30.0, True) <= 1
    assert evidence.biased_score(0.5, 1.0, False) == pytest.approx(0.5 + 0.1 * np.log(2))
    assert evidence.biased_score(0.94, 4.0, False) == pytest.approx(0.94 + 0.06 * np.log(2))
    weights = evidence.edge_weights(np.array([0.8], np.float32), "log_odds", evidence.biased_score(0.5, 1.0, True))
    assert weights == pytest.approx([np.log(2)], abs=1e-6)
    score = run_tasks(tmp_path, SCORE, chunks(0), {})
    scores = random_edges()[2]
    for bias in (-1.5, 2.0):
        pruned = run_tasks(tmp_path / str(bias), pruning(bias=bias), chunks(0), {"score": score})
        (facts,) = stage_facts(pruned)
        odds = 3 / 7 * 2**bias
        assert facts["edges_kept"] == (scores >= np.float32(odds / (1 + odds))).sum()
    (stage,) = planned(Settings(method="star_fc", partition={"method": "map_equation", "precision_bias": 0.5}))
    assert (stage.params["precision_bias"], stage.params["learned"]) == (0.5, True)


@pytest.mark.parametrize(("method", "read"), [("self_trained", {"knn", "score"}), ("cosine", {"knn"})])
def test_a_least_score_is_found_on_what_is_scored(method: str, read: set[str]) -> None:
    settings = Settings(method=method, partition={"method": "propagation"})  # type: ignore[arg-type]
    first = partition_stages(described_graph(3_000, 8, 20), settings)[0]
    assert (first.name, set(first.inputs)) == ("point_forest", read)


def test_of_equal_neighbours_the_denser_is_the_lower_id() -> None:
    sources, targets = np.array([0, 0, 1, 1], np.int32), np.array([2, 3, 2, 4], np.int32)
    scores = np.array([0.5, 0.9, 0.5, 0.9], np.float32)  # 0 and 1 are as dense, and 2 as near to either
    assert density_peaks(5, sources, targets, scores, 0.1).tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize("name", ["components", "propagation", "density_peaks"])
def test_an_edge_at_the_threshold_joins(name: str) -> None:
    edges = Edges(np.array([0, 1], np.int32), np.array([1, 2], np.int32), np.array([0.7, 0.6], np.float32))
    point = {"min_score": float(np.float32(0.7)), "min_intimacy": 0.0, "max_size": 10}
    find = PARTITIONS[name].find(edges, 3, point, learned=True, step=0.05, seed=0, threads=1)
    assert find(0.0).tolist() == [0, 0, 2]


def scored_graph(kind: str) -> tuple[Edges, int]:
    """Scored edges of 12 neighbours a row: clear or overlapping identities, of one size or of many, or noise alone."""
    random = np.random.default_rng(5)
    sizes = {"clear": [10] * 30, "blurred": [10] * 30, "zipf": [100, 50, 33, 25, 20, 16, 14, 12, *[5] * 10],
             "large": [150, 150], "noise": [1] * 300}[kind]  # fmt: skip
    spread = {"clear": 0.3, "blurred": 1.2, "zipf": 0.9, "large": 1.0, "noise": 1.0}[kind]
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rows = unit(random.normal(size=(len(sizes), 16)))[truth] + spread / 4 * random.normal(size=(len(truth), 16))
    similarities = unit(rows) @ unit(rows).T
    nearest = np.argsort(-similarities, axis=1)[:, 1:13]
    pairs = np.unique(np.sort(np.stack([np.repeat(np.arange(len(rows)), 12), nearest.ravel()], 1), axis=1), axis=0)
    cosines = similarities[pairs[:, 0], pairs[:, 1]]
    scores = (1 / (1 + np.exp(-9 * (cosines - 0.6) + random.normal(size=len(pairs))))).astype(np.float32)
    return Edges(pairs[:, 0].astype(np.int32), pairs[:, 1].astype(np.int32), scores), len(rows)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("kind", ["clear", "blurred", "zipf", "large", "noise"])
@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("components", {"min_intimacy": 0.0}),
        ("components", {"min_intimacy": 0.4}),
        ("propagation", {"max_size": 12}),
        ("density_peaks", {}),
        ("map_equation", {}),
    ],
)
def test_a_higher_bias_joins_no_rows_that_a_lower_one_keeps_apart(
    name: str, further: dict[str, Any], kind: str, learned: bool
) -> None:
    edges, num_rows = scored_graph(kind)
    point = {"min_score": 0.5, "weight": "log_odds" if learned else "score", **further}
    find = PARTITIONS[name].find(edges, num_rows, point, learned=learned, step=0.05, seed=0, threads=1)
    lower = find(-3.0)
    for bias in (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0):
        higher = find(bias)
        assert (lower[higher] == lower).all()  # each cluster lies in one of those at the lower bias
        lower = higher
    if kind in ("blurred", "zipf"):  # of clear identities all edges are certain
        assert len(np.unique(find(-3.0))) < len(np.unique(find(3.0)))
