"""A real Ray cluster of several processes on this machine: a head that takes no work, and hosts that come and go."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # or Ray asks another address for what is on 127.0.0.1
TITLE = "ray::TaskRunner"
STORE = 80 << 20
RAY_CPUS = 4  # of the embedded Ray that tests share


class RayCluster:
    """Hosts are raylets of ``cpus`` cores; all of them, and the jobs, see this machine's files."""

    def __init__(self, hosts: int, cpus: int = 1) -> None:
        from ray.cluster_utils import Cluster

        self._cpus = cpus
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE},
        )  # fmt: skip
        for _ in range(hosts):
            self.add_host()

    @property
    def environment(self) -> dict[str, str]:
        """What a job's process needs to join it."""
        return {**os.environ, "RAY_ADDRESS": self._cluster.address, LOOPBACK: "0"}

    def add_host(self, **resources: Any) -> Any:
        return self._cluster.add_node(num_cpus=self._cpus, object_store_memory=STORE, **resources)

    def kill_host(self, number: int = 0) -> None:
        """SIGKILL a host's raylet, and the workers that it had, as when its machine goes."""
        host = sorted(self._cluster.worker_nodes, key=lambda node: node.node_id)[number]
        raylet = psutil.Process(next(iter(host.all_processes["raylet"])).process.pid)
        workers = raylet.children(recursive=True)
        raylet.kill()
        for worker in workers:
            with suppress(psutil.Error):
                worker.kill()
        self._cluster.remove_node(host, allow_graceful=False)

    def workers(self) -> list[psutil.Process]:
        """The actors that run, or wait for, tasks."""
        found = []
        for host in list(self._cluster.worker_nodes):
            for started in host.all_processes["raylet"]:
                with suppress(psutil.Error):
                    found += psutil.Process(started.process.pid).children(recursive=True)
        return [process for process in found if _title(process).startswith(TITLE)]

    def restore(self, hosts: int) -> None:
        """Let hosts join until there are so many."""
        while len(self._cluster.worker_nodes) < hosts:
            self.add_host()

    def close(self) -> None:
        for host in [*self._cluster.worker_nodes, self._cluster.head_node]:
            self._cluster.remove_node(host, allow_graceful=False)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def token() -> Iterator[None]:
    """Let this process, and all it starts, use Ray with a token."""
    held = {name: os.environ.get(name) for name in (MODE, TOKEN)}
    os.environ[MODE] = "token"
    os.environ.setdefault(TOKEN, secrets.token_hex(16))
    from ray._raylet import Config

    Config.initialize("")  # Ray has read its settings when it was imported
    try:
        yield
    finally:
        for name, value in held.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def running(hosts: int, cpus: int = 1) -> Iterator[RayCluster]:
    """A cluster that is gone, with all of its processes, at the end."""
    from engine.executors.ray.session import on_loopback

    with token(), on_loopback():
        cluster = RayCluster(hosts, cpus)
        try:
            yield cluster
        finally:
            cluster.close()
