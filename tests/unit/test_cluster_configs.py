"""What cluster_configs/ holds can be used: by the engine, by ``ray up``, by the Kubernetes operator."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.commands.configuration import load_settings
from engine.commands.resources import load_resources
from engine.version import __version__
from tests.support import ROOT

CONFIGS = ROOT / "cluster_configs"
RAY_VERSION = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]

# Fields of ray.io/v1 as the operator defines them: those that must be there, and those that may be besides.
FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "RayJob": (
        set(),
        {
            "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata",
            "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML",
            "jobId", "submissionMode", "entrypointResources", "entrypointNumCpus", "entrypointNumGpus",
            "ttlSecondsAfterFinished", "shutdownAfterJobFinishes", "suspend",
        },
    ),
    "RayCluster": (
        {"headGroupSpec"},
        {
            "suspend", "managedBy", "authOptions", "autoscalerOptions", "headServiceAnnotations",
            "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "rayVersion", "workerGroupSpecs",
        },
    ),
    "authOptions": (set(), {"mode", "secretName", "enableK8sTokenAuth"}),
    "autoscalerOptions": (
        set(),
        {"resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds", "upscalingMode", "env",
         "envFrom", "volumeMounts", "version"},
    ),
    "headGroupSpec": (
        {"template"},
        {"rayStartParams", "headService", "enableIngress", "serviceType", "resources", "labels"},
    ),
    "workerGroupSpec": (
        {"template", "groupName", "minReplicas", "maxReplicas"},
        {"rayStartParams", "suspend", "replicas", "idleTimeoutSeconds", "scaleStrategy", "numOfHosts", "resources",
         "labels"},
    ),
}  # fmt: skip


def read(name: str) -> Any:
    return yaml.safe_load((CONFIGS / name).read_text())


def check_fields(kind: str, tree: dict[str, Any]) -> None:
    needed, allowed = FIELDS[kind]
    assert needed <= set(tree), f"{kind} lacks {needed - set(tree)}"
    assert set(tree) <= needed | allowed, f"{kind} has no {set(tree) - needed - allowed}"


def check_group(group: dict[str, Any]) -> None:
    """Start parameters are strings; every container has an image, limits, and mounts of volumes that there are."""
    assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    pod = group["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert container["image"].startswith(f"asterism:{__version__}")
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def check_cluster(spec: dict[str, Any]) -> None:
    check_fields("RayCluster", spec)
    check_fields("authOptions", spec["authOptions"])
    check_fields("autoscalerOptions", spec["autoscalerOptions"])
    check_fields("headGroupSpec", spec["headGroupSpec"])
    assert spec["authOptions"]["mode"] == "token"
    assert spec["rayVersion"] == RAY_VERSION
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    check_group(spec["headGroupSpec"])
    for group in spec["workerGroupSpecs"]:
        check_fields("workerGroupSpec", group)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        check_group(group)
    assert [group["groupName"] for group in spec["workerGroupSpecs"]] == ["cores", "gpus"]


@pytest.mark.parametrize("name", ["laptop", "cluster", "cluster_gpus", "one_host_8_gpus"])
def test_the_engine_takes_its_own(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    resources = load_resources(path)
    load_settings(path)
    assert resources.executor == ("local" if name == "laptop" else "ray")
    assert (resources.device == "cuda") == ("gpu" in name)


def test_a_cluster_that_stays() -> None:
    tree = read("kuberay_cluster.yaml")
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayCluster")
    check_cluster(tree["spec"])


def test_a_job_that_resumes_itself() -> None:
    tree = read("kuberay_job.yaml")
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    spec = tree["spec"]
    check_fields("RayJob", spec)
    check_cluster(spec["rayClusterSpec"])
    assert spec["rayClusterSpec"] == read("kuberay_cluster.yaml")["spec"]
    assert spec["backoffLimit"] > 1
    paths = re.findall(r"/opt/asterism/(\S+)", spec["entrypoint"])
    assert paths
    assert all((ROOT / path).is_file() for path in paths)


def test_virtual_machines() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'asterism-clustering[ray]'")
    from jsonschema import validate

    tree = read("ray_up_vms.yaml")
    validate(tree, json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text()))
    assert tree["available_node_types"][tree["head_node_type"]]["resources"]["CPU"] == 0
    starts = [command for kind in ("head", "worker") for command in tree[f"{kind}_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert "0.0.0.0" not in str(tree)


def test_the_image_holds_what_jobs_need() -> None:
    lines = (CONFIGS / "Containerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert {"constraints.txt", "engine", "jobs", "cluster_configs"} <= copied
    assert all((ROOT / name).exists() for name in copied)
    (install,) = [line for line in lines if "pip install" in line and "[${FAISS}" in line]
    assert "--constraint constraints.txt" in install
    assert f"asterism:{__version__} " in "\n".join(lines)
