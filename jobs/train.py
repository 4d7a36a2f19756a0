"""Train a method on labelled vectors, on this machine or as a Ray job; submitted again with the same --out it resumes.

    python jobs/train.py --config cluster_configs/laptop.yaml --features F.npy --labels L.npy --out model
    ray job submit -- python jobs/train.py --config cluster_configs/one_host_8_gpus.yaml --features F --labels L --out M

The folder that it writes is what ``jobs/cluster.py --model`` takes. Exit codes are those of ``jobs/submission.py``.
"""

from __future__ import annotations

from engine.process.stopping import stop_cleanly

if __name__ == "__main__":
    stop_cleanly()  # before what takes seconds to load

import argparse
import json
from pathlib import Path

from submission import add_source, announce, given_settings, make_parser, print_effort, run_job

from engine import train
from engine.api import training_folder
from engine.process.terminal import shown
from engine.storage.cache import local_copy


def main() -> int:
    """Parse, train, print the operating points."""
    parser = make_parser(__doc__.splitlines()[0])
    add_source(parser)
    parser.add_argument("--labels", required=True, help="identities, one per row; -1 is not trained on")
    parser.add_argument("--method", help="structural, star_fc, gcn_v...; default: by size")
    arguments = parser.parse_args()
    return run_job(lambda: work(arguments))


def work(arguments: argparse.Namespace) -> None:
    """Run, or resume, the training."""
    announce(arguments)
    out = train(
        arguments.features, arguments.labels, arguments.out, dim=arguments.dim, config=arguments.config,
        progress=True, **given_settings(arguments),
    )  # fmt: skip
    model = json.loads(Path(local_copy(out), "model.json").read_text())
    print(shown(f"{model['method']} model: {out}"))
    for name, point in model["operating_points"].items():
        print(shown(f"  {name}{' (preferred)' if name == model['preferred'] else ''}: {json.dumps(point)}"))
    print_effort(training_folder(arguments.out))


if __name__ == "__main__":
    raise SystemExit(main())
