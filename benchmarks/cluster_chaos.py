"""Kills of every kind under jobs on a Ray cluster of several processes: ``benchmarks/chaos.py --cluster N``."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from recording import RECORDS, write_record

from engine import api
from engine.runs.effort import run_effort
from engine.runs.events import read_events
from tests.support import killing, ray_cluster

JOB = Path(__file__).parent.parent / "jobs" / "cluster.py"
HOSTS = 3
KINDS = ("worker", "actor", "host", "driver")
KILLS_PER_RUN = 4
RESOURCES = {"executor": "ray", "threads": 1, "memory_bytes": "4GB", "block_rows": 4096}


@dataclass
class Run:
    """One job under kills, submitted again whenever its driver was killed."""

    number: int
    root: Path
    command: list[str]
    cluster: ray_cluster.RayCluster
    rng: random.Random
    kills: list[dict[str, Any]] = field(default_factory=list)
    written_again: int = 0

    def finish(self, planned: dict[str, str], durations: dict[str, float], limit_s: float) -> dict[str, Any]:
        """Run to the end, with a kill of the planned kind in each planned stage; return what became of it."""
        started = time.perf_counter()
        committed: dict[str, killing.Stamp] = {}
        driver = self._submit()
        hung = False
        while driver.poll() is None and not hung:
            stage = self._stage()
            kind = planned.pop(stage, None)
            if kind is None:
                time.sleep(0.02)
            else:
                time.sleep(self.rng.uniform(0, durations[stage]))
                if self._kill(kind, driver):
                    self.kills.append({"kind": kind, "stage": self._stage()})
                if kind == "driver":
                    driver.wait()
                    committed = self._compare(committed)
                    driver = self._submit()
            hung = time.perf_counter() - started > limit_s
        if hung:
            driver.kill()
        driver.wait()
        self._compare(committed)
        self.cluster.restore(HOSTS)
        effort = run_effort(self.root)
        return {
            "run": self.number, "kills": self.kills, "hung": hung, "exit_code": driver.returncode,
            "seconds": round(time.perf_counter() - started, 1), "starts": effort.starts, "tasks": effort.tasks,
            "retries": effort.retries, "lost": effort.lost, "lost_s": effort.lost_s,
            "committed_again": sum(count - 1 for count in killing.commits(self.root).values()),
            "written_again": self.written_again,
        }  # fmt: skip

    def _submit(self) -> subprocess.Popen[bytes]:
        with open(self.root.with_suffix(".log"), "ab") as log:
            return subprocess.Popen(self.command, env=self.cluster.environment, stdout=log, stderr=log)

    def _stage(self) -> str:
        begun = [e["stage"] for e in read_events(self.root) if e["event"] == "stage_started" and e["tasks"]]
        return begun[-1] if begun else ""

    def _kill(self, kind: str, driver: subprocess.Popen[bytes]) -> bool:
        if kind == "driver":
            if driver.poll() is None:
                driver.kill()
            return True
        if kind == "host":
            self.cluster.kill_host(self.rng.randrange(HOSTS))
            self.cluster.restore(HOSTS)
            return True
        workers = self.cluster.workers()
        with suppress(psutil.Error):
            if workers:
                victim = self.rng.choice(workers)
                victim.kill() if kind == "worker" else victim.terminate()
                return True
        return False

    def _compare(self, before: dict[str, killing.Stamp]) -> dict[str, killing.Stamp]:
        try:
            return before | killing.compare_committed(self.root, before)
        except AssertionError as error:
            print(f"run {self.number}: {error}")
            self.written_again += 1
            return before


@dataclass
class Chaos:
    """Runs over one stand-in, and the record that they are added to."""

    identities: int
    seed: int
    settings: dict[str, Any]
    model: Path | None = None

    @property
    def name(self) -> str:
        """What the record is called."""
        return f"chaos_cluster_{self.identities}"

    def run(self, numbers: range, work: Path) -> int:
        """Cluster undisturbed on the local executor, then once per number under kills; record and compare."""
        data = work / "data"
        api.make_standin(data, self.identities, self.seed)
        job = [sys.executable, str(JOB), "--features", str(data / "features.bin"), "--dim", "256"]
        job += ["--model", str(self.model.resolve())] if self.model else []
        for executor in ("local", "ray"):
            resources = RESOURCES if executor == "ray" else {"executor": "local"}
            (work / f"{executor}.yaml").write_text(yaml.safe_dump({**self.settings, "resources": resources}))
        undisturbed = work / "undisturbed"
        command = [*job, "--config", str(work / "local.yaml"), "--out", str(undisturbed)]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit_s = 300 + 20 * (time.perf_counter() - started)
        durations = killing.stage_seconds(undisturbed)
        wanted = [
            (stage, KINDS[(n + at) % len(KINDS)]) for n in range(len(KINDS)) for at, stage in enumerate(durations)
        ]
        record = RECORDS / f"{self.name}.json"
        rows = json.loads(record.read_text())["results"]["runs"][: numbers.start] if numbers.start else []
        with ray_cluster.running(HOSTS) as cluster:
            for number in numbers:
                root = work / f"run{number}"
                turn = [wanted[(number * KILLS_PER_RUN + n) % len(wanted)] for n in range(KILLS_PER_RUN)]
                command = [*job, "--config", str(work / "ray.yaml"), "--out", str(root)]
                run = Run(number, root, command, cluster, random.Random(self.seed + number))
                row = run.finish(dict(turn), durations, limit_s)
                row["same_bytes"] = not row["exit_code"] and (
                    killing.labels_bytes(root) == killing.labels_bytes(undisturbed)
                )
                rows.append(row)
                print({name: value for name, value in row.items() if name != "kills"}, flush=True)
                total = self._record(rows)
                if row["same_bytes"]:
                    shutil.rmtree(root)
        print(total)
        return int(any(total[key] for key in ("wrong_labels", "hung", "committed_again", "written_again")))

    def _record(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        total: dict[str, Any] = {
            "runs": len(rows), "kills": dict(Counter(kill["kind"] for row in rows for kill in row["kills"])),
            "stages_struck": dict(Counter(kill["stage"] for row in rows for kill in row["kills"])),
            "wrong_labels": sum(not row["same_bytes"] for row in rows), "hung": sum(row["hung"] for row in rows),
        }  # fmt: skip
        for key in ("tasks", "retries", "lost", "committed_again", "written_again"):
            total[key] = sum(row[key] for row in rows)
        facts = {"identities": self.identities, "seed": self.seed, "hosts": HOSTS, **RESOURCES, **self.settings}
        write_record(self.name, {**facts, "model": self.model is not None}, {"total": total, "runs": rows})
        return total
