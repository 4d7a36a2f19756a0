"""The projection for a compute cluster: the local plan's costs, what is spread and what is not, and refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest

from engine.api import Request, project
from engine.commands.configuration import load_settings
from engine.commands.projection import ComputeCluster, Projection, described_source, project_stages
from engine.errors import ConfigError, DataError
from engine.flow.run import run_stages
from engine.methods.registry import METHODS
from engine.partitions import PARTITIONS
from engine.runs.plan import make_plan

HUNDRED_MILLION, BILLION = 10**8, 10**9
STAR = Request("", load_settings(method="star_fc"))


def projected(cluster: ComputeCluster, rows: int = HUNDRED_MILLION, **overrides: Any) -> Projection:
    return project(Request("", load_settings(overrides=overrides)), cluster, [rows])[0]


def by_name(found: Projection) -> dict[str, Any]:
    return {stage.name: stage for stage in found.stages}


def test_one_host_of_two_cores_is_the_local_plan() -> None:
    source, settings = described_source(1_000_000, 256), load_settings(method="cosine")
    stages = run_stages(source, settings)
    memory = 8 << 30
    local = make_plan("run", stages, source_digest="", memory_bytes=memory, free_disk_bytes=1 << 50, threads=2)
    found = project_stages(stages, source, ComputeCluster(1, 0, 2, memory))
    assert (found.host_bytes, found.disk_bytes) == (local.memory_bytes, local.disk_bytes)
    for stage, there in zip(local.stages, found.stages, strict=True):
        assert (there.host_bytes, there.tasks) == (stage.memory_bytes, stage.num_tasks())
        assert there.bottleneck == "storage" or there.seconds == pytest.approx(stage.total_seconds)


def test_hosts_share_the_tasks_of_rows_and_nothing_else() -> None:
    few, many = by_name(projected(ComputeCluster(4))), by_name(projected(ComputeCluster(16)))
    for name, stage in few.items():
        if stage.tasks == 1:
            assert many[name].seconds == stage.seconds
        else:
            assert 0.2 < many[name].seconds / stage.seconds < 0.4
    assert many["analysis"].bottleneck == "one worker"
    assert many["near_1"].workers == 16


def test_memory_of_the_order_of_n_is_held_by_every_worker_however_many_hosts() -> None:
    for hosts in (4, 64):
        found = by_name(projected(ComputeCluster(hosts, gpus_per_host=8), BILLION))
        assert found["order"].host_bytes > 24 * BILLION
        assert found["analysis"].host_bytes > 50 * BILLION
        assert found["near_1"].host_bytes > 8 * 20 * BILLION


def test_gpus_speed_up_what_runs_on_them() -> None:
    for mode, faster in (("exact", {"knn"}), ("partition", set())):
        cores, gpus = (by_name(projected(ComputeCluster(2, gpus, 16), 10**6, **{"knn.mode": mode})) for gpus in (0, 1))
        assert {name for name in cores if gpus[name].seconds < cores[name].seconds} == faster
        for name in faster:
            assert gpus[name].seconds == pytest.approx(cores[name].seconds * 4 / 220, rel=0.02)


def test_what_does_not_fit_is_refused_with_what_makes_it_fit() -> None:
    cluster, modules = (
        ComputeCluster(16, 8),
        Request("", load_settings(None, {"partition.method": "map_equation", "knn.k": 800})),
    )
    (found,) = project(modules, cluster, [BILLION])
    text = " ".join(found.refusals)
    assert "roots needs" in text
    assert "more hosts do not help" in text
    memory = int(re.findall(r"--memory-per-host (\d+)GB", text)[0]) * 10**9
    assert not project(modules, ComputeCluster(16, 8, memory_bytes=memory), [BILLION])[0].refusals
    assert project(modules, ComputeCluster(16, 8, memory_bytes=memory - 2 * 10**9), [BILLION])[0].refusals
    k = int(re.findall(r"knn\.k=(\d+)", text)[0])
    for changed, fits in ((k, True), (k + 1, False)):
        request = Request("", modules.settings.with_k(changed))
        assert (not project(request, cluster, [BILLION])[0].refusals) == fits
    assert "partition.method=propagation" in text
    assert not project(STAR, cluster, [BILLION])[0].refusals


# What still needs all edges in one worker at a billion rows.
REFUSED = {"gcn_d": {"proposals"}}
# Stages of one task that take more than a twentieth of a run.
ALONE = {"cells", "explain", "labels", "analysis", "point", "point_tree", "roots", "question_tree", "questions"}
ALONE |= {"listed_strangers", "near_strangers", "strangers", "said"}  # of self_trained
METHODS_HERE = ["cosine", "star_fc", "structural", "l_gcn", "cdp", "fc_es", "self_trained", "gcn_d"]


@pytest.mark.parametrize(
    "method", ["cosine", "star_fc", "structural", "l_gcn", "cdp", "fc_es", "self_trained", "gcn_d"]
)
def test_a_billion_rows_on_many_hosts(method: str) -> None:
    for partition in [None] if METHODS[method].clusters_itself else PARTITIONS:
        given: dict[str, Any] = {"method": method, **({"partition.method": partition} if partition else {})}
        if partition == "components":
            given |= {"partition.min_intimacy": 0.5, "partition.min_score": 0.5}
        try:
            (found,) = project(Request("", load_settings(overrides=given)), ComputeCluster(16, 8), [BILLION])
        except ConfigError:  # the method has no such partition
            continue
        refused = {line.partition(" needs")[0] for line in found.refusals if " needs " in line}
        assert refused == REFUSED.get(str(partition), set()) | REFUSED.get(method, set())
        if refused:
            continue
        seconds = found.seconds(every_pass=False)
        alone = {stage.name for stage in found.stages if stage.workers == 1 and stage.seconds > seconds / 20}
        assert {name.rstrip("_123") for name in alone} <= ALONE
        assert max(stage.host_bytes for stage in found.stages) <= 256 * 10**9


def test_fewer_gpus_on_a_host_hold_fewer_copies() -> None:
    found = projected(ComputeCluster(16, 8, memory_bytes=10**11), BILLION, **{"knn.recall_samples": 0})
    text = next(refusal for refusal in found.refusals if refusal.startswith("near_1"))
    gpus = int(re.findall(r"--gpus-per-host (\d+)", text)[0])
    for changed, fits in ((gpus, True), (gpus + 1, False)):
        cluster = ComputeCluster(16, changed, memory_bytes=10**11, cores_per_host=8 * changed)
        assert (by_name(projected(cluster, BILLION))["near_1"].host_bytes <= 10**11) == fits


def test_too_little_disk_names_the_hosts_that_hold_it() -> None:
    found = projected(ComputeCluster(2, disk_bytes=10**11))
    hosts = int(re.findall(r"--hosts (\d+)", found.refusals[0])[0])
    assert not projected(ComputeCluster(hosts, disk_bytes=10**11)).refusals
    assert projected(ComputeCluster(hosts - 1, disk_bytes=10**11)).refusals


def test_more_rows_than_ids_number_are_refused() -> None:
    with pytest.raises(DataError, match="int32 ids, so 2,147,483,647 rows are the most"):
        projected(ComputeCluster(16), 2**31)
    with pytest.raises(ConfigError, match="--labels and --knn-graph"):
        project(Request("", labels="labels.txt"), ComputeCluster(16), [1000])
