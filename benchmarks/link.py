"""Hosts whose network is cut under a run: ``python benchmarks/link.py [--cuts 6] [--identities 300]``, as root.

Two hosts are network namespaces of this machine with a raylet of one core each; head, driver and an S3 server that
keeps features and run are reached over a bridge, and each host has a cache of its own. In a random stage the link of
one host, or of both, is cut for ``--seconds``, then joined again; a raylet that ended meanwhile is started again, as
whatever looks after a host would do. A job that fails is submitted again. Labels must be those of the local executor.
Rows of ``benchmarks/records/link.json`` are written anew; ends with 1 if a label is wrong or a job hangs.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from recording import write_record

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from engine import api  # noqa: E402
from engine.errors import DataError  # noqa: E402
from engine.runs.events import read_events  # noqa: E402
from engine.storage.remote import CACHE_FOLDER, Storage  # noqa: E402
from tests.support.s3_server import BUCKET, S3Server  # noqa: E402

BRIDGE, HEAD = "asterism0", "10.93.0.1"
HOSTS = {"asterism-a": "10.93.0.2", "asterism-b": "10.93.0.3"}
PORT = 6399
HANGS_S = 900.0
STAGES = ("ingest", "knn", "score", "roots", "labels")


class Hosts:
    """A head in this network namespace and hosts in their own, joined by a bridge."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._raylets: dict[str, subprocess.Popen[bytes]] = {}
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{HEAD}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for number, (name, address) in enumerate(HOSTS.items()):
            _ip("netns", "add", name)
            _ip("link", "add", f"ast{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"ast{number}", "master", BRIDGE, "up")
            for words in (["addr", "add", f"{address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                          ["link", "set", "lo", "up"]):  # fmt: skip
                _ip("-n", name, *words)

    def start(self) -> None:
        """Start the head, then what hosts have no raylet that runs."""
        if "head" not in self._raylets:
            self._raylets["head"] = self._ray(
                "head", HEAD, ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"], []
            )
            time.sleep(5)
        for name, address in HOSTS.items():
            if name not in self._raylets or self._raylets[name].poll() is not None:
                within = ["ip", "netns", "exec", name]
                joined = [f"--address={HEAD}:{PORT}", "--num-cpus=1"]
                self._raylets[name] = self._ray(name, address, joined, within)

    def _ray(self, name: str, address: str, words: list[str], within: list[str]) -> subprocess.Popen[bytes]:
        command = [
            *within, str(Path(sys.executable).with_name("ray")), "start", *words, "--block", "--disable-usage-stats",
            f"--node-ip-address={address}", f"--object-store-memory={80 << 20}",
        ]  # fmt: skip
        environment = {**self._environment, CACHE_FOLDER: str(self._folder / f"cache-{name}")}
        with open(self._folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def link(self, name: str, state: str) -> None:
        """Cut or join the link of a host."""
        _ip("link", "set", f"ast{list(HOSTS).index(name)}", state)

    def close(self) -> None:
        for process in self._raylets.values():
            process.terminate()
        for process in self._raylets.values():
            process.wait()
        remove_links()


def remove_links() -> None:
    """Remove the bridge and the hosts, if they are there."""
    for words in (["link", "del", BRIDGE], *(["netns", "del", name] for name in HOSTS)):
        subprocess.run(["ip", *words], stderr=subprocess.DEVNULL, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def cut(hosts: Hosts, names: list[str], stage: str, job: list[str], out: str, environment: dict[str, str],
        seconds: float, log: Path) -> dict[str, Any]:  # fmt: skip
    """Submit a job, cut links in a stage, join them, submit it again until it is done; returns what came of it."""
    begun, submissions, codes = time.perf_counter(), 0, []
    cut_at = 0.0
    while True:
        submissions += 1
        hosts.start()
        with open(log, "ab") as stream:
            driver = subprocess.Popen(job, env=environment, stdout=stream, stderr=stream)
        while driver.poll() is None:
            time.sleep(0.2)
            if not cut_at and _has_started(out, stage):
                for name in names:
                    hosts.link(name, "down")
                cut_at = time.perf_counter()
            if cut_at and names and time.perf_counter() - cut_at > seconds:
                for name in names:
                    hosts.link(name, "up")
                names = []
            if not names:
                hosts.start()
            if time.perf_counter() - begun > HANGS_S:
                driver.kill()
                return {"hung": True, "submissions": submissions}
        codes.append(driver.returncode)
        for name in names:  # the job ended while its hosts were away
            hosts.link(name, "up")
        names = []
        if driver.returncode == 0 or submissions == 5:
            break
    events = read_events(api.open_run(out))
    commits = Counter((e["stage"], e["start"]) for e in events if e["event"] == "task_committed")
    return {
        "hung": False, "submissions": submissions, "exit_codes": codes,
        "seconds": round(time.perf_counter() - begun, 1), "tasks": len(commits),
        "committed_twice": sum(count > 1 for count in commits.values()),
        "failed_attempts": sum(e["event"] == "task_failed" for e in events),
    }  # fmt: skip


def _has_started(out: str, stage: str) -> bool:
    try:
        events = read_events(api.open_run(out))
    except DataError:  # nothing of the run is there yet
        return False
    return any(event["event"] == "stage_started" and event["stage"] == stage for event in events)


def main() -> int:
    """Run, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=6)
    parser.add_argument("--identities", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a link is cut")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, rows = random.Random(arguments.seed), []
    remove_links()
    with tempfile.TemporaryDirectory(prefix="link-") as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16),
                       "PYTHONPATH": str(ROOT), CACHE_FOLDER: str(folder / "cache-driver")}  # fmt: skip
        api.make_standin(folder, arguments.identities, 0)
        config = folder / "config.yaml"
        config.write_text(
            "resources: {executor: ray, threads: 1, memory_bytes: 2GB, block_rows: 4096}\nmethod: cosine\n"
        )
        local = [sys.executable, "-m", "engine", "run", "--features", str(folder / "features.bin"), "--dim", "256",
                 "--method", "cosine", "--out", str(folder / "local"), "--quiet"]  # fmt: skip
        subprocess.run(local, check=True)
        expected = api.run_labels(folder / "local")
        hosts = Hosts(folder, environment)
        server = S3Server(HEAD)
        try:
            environment |= server.environment | {"RAY_ADDRESS": f"{HEAD}:{PORT}"}
            os.environ.update(environment)
            Storage(f"s3://{BUCKET}/data").put([folder / "features.bin"], ["features.bin"])
            for number in range(arguments.cuts):
                stage, names = rng.choice(STAGES), list(HOSTS)[: 1 + number % 2]
                out = f"s3://{BUCKET}/run-{number}"
                job = [sys.executable, str(ROOT / "jobs/cluster.py"), "--config", str(config), "--features",
                       f"s3://{BUCKET}/data/features.bin", "--dim", "256", "--out", out]  # fmt: skip
                found = cut(hosts, names, stage, job, out, environment, arguments.seconds, folder / "job.log")
                same = not found["hung"] and bool(np.array_equal(api.run_labels(out), expected))
                rows.append(
                    {"stage": stage, "hosts_cut": len(names), "cut_s": arguments.seconds, **found, "same": same}
                )
                print(rows[-1], flush=True)
        finally:
            shutil.copyfile(folder / "job.log", "link-job.log") if (folder / "job.log").exists() else None
            hosts.close()
            server.close()
    write_record("link", {"identities": arguments.identities, "rows": len(expected), "hosts": len(HOSTS)}, rows)
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
