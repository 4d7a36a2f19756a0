"""Kills at random moments of every command: ``python benchmarks/kills.py``, about half an hour on one core.

Ingests, trains each method that learns, runs each default, exports each format, reports and compares small stand-ins
undisturbed; then again and again with SIGKILL, SIGINT and SIGTERM at moments drawn uniformly from how long that took.
The same command is run again, by chance killed again, until it is done. After every kill no half file may be under a
final name and no process be left; a signal is answered by one line and no traceback; at the end outputs must be the
same bytes, and no temporary file be left. Writes ``benchmarks/records/kills.json``; ends with 1 if a claim fails.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from recording import write_record

from engine import api
from engine.cli.options import LabelFile
from engine.commands.standin import DIM
from engine.methods.registry import METHODS
from tests.support import killed_commands
from tests.support.killed_commands import Command

IDENTITIES = 15  # about 1,000 rows
MAX_KILLS = 4  # of one folder
SHARED = ("--threads", "1", "--memory", "2GB", "--quiet")
GRAPH = ("--set", "knn.k=10", "--set", "knn.recall_samples=50")
STEPS = ("--set", "train.max_steps=20", "--set", "train.evaluate_every=10")
IN_PASSES = ("--set", "knn.mode=partition", "--set", "knn.num_probes=1")
LEARNED: tuple[str, ...] = (
    "structural", "star_fc", "star_fc_hierarchical", "gcn_v", "gcn_e", "l_gcn", "gcn_d", "gcn_s", "cdp_mediator",
    "fc_es", "fc_eser",
)  # fmt: skip


def main() -> int:
    """Run, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="by commas: commands whose names begin so")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        rows = strike_all(Path(folder), arguments.kills, random.Random(arguments.seed), arguments.only)
    settings = {"kills": arguments.kills, "seed": arguments.seed, "identities": IDENTITIES, "only": arguments.only}
    for row in rows:
        print(f"{row['command']:<28}{row['kills']:>4} kills {row['undisturbed_s']:>6.1f} s  {row['wrong'] or ''}")
    wrong = [text for row in rows for text in row["wrong"]]
    kills = sum(row["kills"] for row in rows)
    print(f"{kills} kills in {time.monotonic() - started:.0f} s, {len(wrong)} claims failed; "
          f"slowest end {max(row['slowest_end_s'] for row in rows):.2f} s after its signal")  # fmt: skip
    write_record("kills", settings, rows)
    return 1 if wrong or kills < arguments.kills else 0


def strike_all(folder: Path, num_kills: int, rng: random.Random, only: str) -> list[dict[str, Any]]:
    """Kill commands, those with the fewest kills first, until there are ``num_kills``; a row for each command."""
    struck = [Struck(command, folder) for command in all_commands(folder)
              if command.name.startswith(tuple(only.split(",")))]  # fmt: skip
    loading = killed_commands.run(Command("loading", ("--version",)), folder / "loading", true_command=True).seconds
    while (kills := sum(each.kills for each in struck)) < num_kills:
        least = min(each.kills for each in struck)
        each = rng.choice([each for each in struck if each.kills == least])
        each.strike(loading, rng, min(MAX_KILLS, num_kills - kills))
    return [each.row() for each in struck]


class Struck:
    """A command, how it went undisturbed, and what its kills did."""

    def __init__(self, command: Command, folder: Path) -> None:
        self.command = command
        self.wrong: list[str] = []
        self.attempts: list[killed_commands.Attempt] = []
        self.folder = folder / "killed" / command.name.replace(" ", "-")
        # The first may have to compile; the second must write the same bytes.
        _, self.whole, _ = undisturbed(command, self.folder)
        self.seconds, again, _ = undisturbed(command, self.folder)
        if self.whole != again:
            self.wrong.append(f"{command.name}: two undisturbed runs differ")
        print(f"{command.name}: {self.seconds:.1f} s undisturbed", flush=True)

    @property
    def kills(self) -> int:
        return sum(bool(done.struck) for done in self.attempts)

    def strike(self, loading_s: float, rng: random.Random, max_kills: int) -> None:
        attempts, wrong = killed_commands.strike_until_done(
            self.command, self.folder, self.whole, self.seconds, loading_s, rng, max_kills
        )
        for text in wrong:
            print(text, flush=True)
        self.attempts += attempts
        self.wrong += wrong
        print(f"{self.command.name}: {self.kills} kills, {len(self.wrong)} claims failed", flush=True)

    def row(self) -> dict[str, Any]:
        return {
            "command": self.command.name, "undisturbed_s": round(self.seconds, 2), "kills": self.kills,
            "by_signal": dict(Counter(done.struck for done in self.attempts if done.struck)),
            "before_its_first_line": sum(not done.ready for done in self.attempts),
            "slowest_end_s": round(max((done.gone_s for done in self.attempts), default=0.0), 2), "wrong": self.wrong,
        }  # fmt: skip


def undisturbed(command: Command, out: Path) -> tuple[float, dict[str, str], Path]:
    """Run a command in a fresh folder: how long that took, and what is there."""
    command.prepare(out)
    done = killed_commands.run(command, out)
    if done.code:
        raise SystemExit(f"{command.name} ended with {done.code}: {done.errors}")
    return done.seconds, killed_commands.contents(out), out


def all_commands(folder: Path) -> list[Command]:
    """Every command, with small data, models and a finished run in ``folder``."""
    for seed, part in enumerate(("train", "test"), start=1):
        api.make_standin(folder / part, IDENTITIES, seed)
    train = ("--features", f"{folder}/train/features.bin", "--dim", str(DIM), "--labels", f"{folder}/train/labels.meta")
    test = ("--features", f"{folder}/test/features.bin", "--dim", str(DIM))
    found = [Command("ingest", ("ingest", test[1], *test[2:], "--out", "{out}", *SHARED))]
    for name in LEARNED:
        steps = STEPS if METHODS[name].reads("train.max_steps", training=True) else ()
        words = ("train", *train, "--method", name, "--out", "{out}/model", *SHARED, *GRAPH, *steps)
        found.append(Command(f"train {name}", words))
    models = {name: folder / f"model-{name}" for name in ("structural", "star_fc")}
    for name, model in models.items():
        undisturbed(next(each for each in found if each.name == f"train {name}"), model)
    run = ("run", *test, "--out", "{out}", *SHARED)
    for name, given in (
        ("cosine", ("--method", "cosine", *GRAPH)), ("self_trained", ("--method", "self_trained", *GRAPH)),
        *((name, ("--model", str(model / "model"))) for name, model in models.items()),
    ):  # fmt: skip
        found += [Command(f"run {name}", (*run, *given)), Command(f"run {name} in passes", (*run, *given, *IN_PASSES))]
    finished = folder / "finished"
    undisturbed(next(each for each in found if each.name == "run structural"), finished)
    for kind in LabelFile:
        words = ("export", str(finished), "--format", kind, "--out", f"{{out}}/labels.{kind}")
        found.append(Command(f"export {kind}", words, files=(f"labels.{kind}",)))
    words = ("export", str(finished), "--clusters", "--out", "{out}/clusters.parquet")
    found.append(Command("export clusters", words, files=("clusters.parquet",)))
    found.append(Command("report", ("report", "{out}"), needs=finished))
    words = ("report", str(finished), "--out", "{out}/copy.html")
    found.append(Command("report elsewhere", words))
    methods = ("--methods", "cosine,structural,gcn_d")
    given = ("--threads", "1", "--memory", "2GB", "--quiet", "--set", "knn.k=10", "--set", "train.max_steps=20")
    found.append(Command("compare", ("compare", *train, *methods, "--out", "{out}", *given)))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
