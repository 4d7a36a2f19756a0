"""Cluster stand-ins of growing size, part1 to ultra-large, and print one table of them; submitted again it resumes.

    python jobs/scale_test.py --config cluster_configs/laptop.yaml --out scale --parts part1
    ray job submit -- python jobs/scale_test.py --config cluster_configs/one_host_8_gpus.yaml --out SHARED/scale

A part's vectors are made on the host that runs this script, in bounded memory, and kept in ``--out`` with its run.
``--parts name=IDENTITIES`` makes one of another size. Exit codes are those of ``jobs/submission.py``.
"""

from __future__ import annotations

from engine.process.stopping import stop_cleanly

if __name__ == "__main__":
    stop_cleanly()  # before what takes seconds to load

import argparse
from pathlib import Path

from submission import announce, given_settings, make_parser, print_effort, run_job

from engine import api, cluster, evaluate
from engine.commands.standin import PARTS
from engine.errors import ConfigError
from engine.process.terminal import shown
from engine.runs.effort import run_effort
from engine.runs.events import read_events
from engine.storage.formats.label_files import read_labels
from engine.storage.outputs import out_folder
from engine.storage.remote import is_url

HEADER = ("part", "rows", "seconds", "memory GB", "pairwise F", "BCubed F", "hosts", "retries", "lost s")


def main() -> int:
    """Parse, run every part, print the table."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="by commas: names, or name=identities")
    parser.add_argument("--model", help="folder that jobs/train.py wrote")
    arguments = parser.parse_args()
    return run_job(lambda: work(arguments))


def work(arguments: argparse.Namespace) -> None:
    """Make and run the parts that are not finished."""
    announce(arguments)
    if is_url(arguments.out):
        raise ConfigError(f"--out {arguments.out}: the vectors are made there too; name a folder that every host sees")
    arguments.out = out_folder(arguments.out)
    rows = []
    for number, (name, identities) in enumerate(sizes(arguments.parts).items(), start=1):
        print(shown(f"== {name}"), flush=True)
        rows.append(measure(name, identities, number, arguments))
        print_effort(Path(arguments.out) / name)
    widths = [max(len(row[column]) for row in [HEADER, *rows]) for column in range(len(HEADER))]
    for row in [HEADER, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print("seconds: of all starts together; memory: most of the driver's machine, or of a worker if that was more")


def sizes(parts: str) -> dict[str, int]:
    """Identities of each part; raises ``ConfigError`` for what is neither a name nor ``name=identities``."""
    found = {}
    for part in parts.split(","):
        name, _, identities = part.partition("=")
        if not (identities.isdecimal() and int(identities)) and part not in PARTS:
            raise ConfigError(f"--parts {part}: expected one of {', '.join(PARTS)}, or name=identities")
        found[name] = int(identities or PARTS[name])
    return found


def measure(name: str, identities: int, seed: int, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Make one part if it is not there, cluster it, and return its line of the table."""
    out = Path(arguments.out)
    data, run = out / f"{name}-data", out / name
    if not (data / "labels.meta").exists():
        api.make_standin(data, identities, seed)
    result = cluster(
        data / "features.bin", dim=256, labels=data / "labels.meta", model=arguments.model, workspace=run,
        config=arguments.config, progress=True, **given_settings(arguments),
    )  # fmt: skip
    scores = evaluate(result.labels, read_labels(data / "labels.meta"))
    stages = [event for event in read_events(run) if event["event"] == "stage_finished"]
    effort = run_effort(run)
    return (
        name, f"{len(result.labels):,}", f"{sum(stage['seconds'] for stage in stages):,.0f}",
        f"{max(stage['peak_bytes'] for stage in stages) / 1e9:.2f}", f"{100 * scores['pairwise_f']:.1f}",
        f"{100 * scores['bcubed_f']:.1f}", str(len(effort.hosts)), str(effort.retries), f"{effort.lost_s:.1f}",
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
