"""Cluster vectors, on this machine or as a Ray job; submitted again with the same --out it resumes.

    python jobs/cluster.py --config cluster_configs/laptop.yaml --features faces.npy --out run
    ray job submit -- python jobs/cluster.py --config cluster_configs/one_host_8_gpus.yaml --features F --out RUN

Progress goes to the job's log as lines, the labels to RUN (``asterism export RUN``), with an HTML report. Exit codes
are those of ``jobs/submission.py``.
"""

from __future__ import annotations

from engine.process.stopping import stop_cleanly

if __name__ == "__main__":
    stop_cleanly()  # before what takes seconds to load

import argparse

import numpy as np
from submission import add_source, announce, given_settings, make_parser, print_effort, run_job

from engine import cluster, evaluate
from engine.process.terminal import shown


def main() -> int:
    """Parse, run, print what came out."""
    parser = make_parser(__doc__.splitlines()[0])
    add_source(parser)
    parser.add_argument("--model", help="folder that jobs/train.py wrote; without one: by cosine and self-training")
    parser.add_argument("--method", help="default: the model's, else by size")
    parser.add_argument("--labels", help="identities, one per row, for scores only")
    arguments = parser.parse_args()
    return run_job(lambda: work(arguments))


def work(arguments: argparse.Namespace) -> None:
    """Run, or resume, the clustering."""
    announce(arguments)
    result = cluster(
        arguments.features, dim=arguments.dim, model=arguments.model, labels=arguments.labels, workspace=arguments.out,
        config=arguments.config, progress=True, **given_settings(arguments),
    )  # fmt: skip
    labels = result.labels
    num_clusters = np.unique(labels[labels >= 0]).size
    print(shown(f"{len(labels):,} rows in {num_clusters:,} clusters; report: {arguments.out}/report.html"))
    if arguments.labels:
        scores = evaluate(labels, arguments.labels)
        print(f"pairwise F {100 * scores['pairwise_f']:.1f}, BCubed F {100 * scores['bcubed_f']:.1f}")
    print_effort(arguments.out)


if __name__ == "__main__":
    raise SystemExit(main())
