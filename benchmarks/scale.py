"""From .bin to labels at every size, part1 to ten million vectors, with a model trained on part0.

    python benchmarks/scale.py [--parts part1,part9] [--kill] [--set knn.recall=0.97] [--model FOLDER] [--work FOLDER]
        [--method cdp] [--remark "beside other work"]

Each part is made, run in a process of its own, measured and deleted (ten-million needs about 50 GB of free disk; with
``--work`` what it made stays and is used again).
``--kill`` kills the run at half of the time it took and resumes it: the labels must be the same bytes. Rows of
``benchmarks/records/scale.json`` are replaced by part, method (the model's; ``--method`` one that needs no model) and
``--set``; ``--plot`` draws STAR-FC's without any ``--set`` as ``benchmarks/records/scale.svg``, but for those with a
``remark``: other work disturbed them.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from recording import RECORDS, read_rows, record_row
from run_graph import stage_table

from engine import api, evaluate
from engine.commands import standin as synth
from engine.commands.run_folder import recall_estimate, stage_folder
from engine.storage.formats.label_files import read_labels
from engine.storage.manifest import bytes_below, file_checksum, read_run

PARTS = {name: identities for name, identities in synth.PARTS.items() if name != "ultra-large"}


def run(command: list[str], folder: Path, kill_after: float | None = None) -> tuple[float, int]:
    """Run ``asterism`` in a process of its own; kill it after some seconds, or wait.

    Returns the seconds it took and the most bytes that ``folder`` held.
    """
    started, most = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-c", "from engine.cli.app import main; main()", *command])
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        most = max(most, bytes_below(folder))
        if kill_after is not None and time.perf_counter() - started >= kill_after:
            process.send_signal(signal.SIGKILL)
            process.wait()
    seconds = time.perf_counter() - started
    if process.returncode != (0 if kill_after is None else -signal.SIGKILL):
        raise SystemExit(f"asterism {' '.join(command)}: exit {process.returncode} after {seconds:.0f} s")
    return seconds, most


def measure(part: str, work: Path, scorer: list[str], settings: list[str], kill: bool) -> dict[str, Any]:
    """Make, run and measure one part; returns its row."""
    data, folder = work / part, work / f"run-{part}"
    if not (data / "labels.meta").exists():
        api.make_standin(data, PARTS[part], 1 if part == "part1" else 1 + list(PARTS).index(part))
    source, given = str(data / "features.bin"), [word for pair in settings for word in ("--set", pair)]
    command = ["run", "--features", source, "--dim", "256", *scorer, *given, "--out", str(folder)]
    seconds, disk_bytes = run(command, folder)
    truth, labels = read_labels(data / "labels.meta"), api.run_labels(folder)
    stages = stage_table(folder)
    row = {
        "part": part, "method": read_run(folder)["plan"]["facts"]["method"], "identities": PARTS[part],
        "num_rows": len(truth), "seconds": round(seconds, 1),
        "peak_bytes": max(stage["peak_bytes"] for stage in stages),
        "disk_bytes": disk_bytes, "disk_bytes_after": bytes_below(folder),
        "recall": recall_estimate(folder), **evaluate(labels, truth), "stages": stages,
    }  # fmt: skip
    if kill:
        before = file_checksum(stage_folder(folder, "labels") / "labels.npy")
        shutil.rmtree(folder)
        first = run(command, folder, kill_after=seconds / 2)[0]
        second = run(["resume", str(folder)], folder)[0]
        after = file_checksum(stage_folder(folder, "labels") / "labels.npy")
        row["killed"] = {"at_seconds": round(first, 1), "resumed_seconds": round(second, 1), "same": after == before}
        print(f"{part}: killed after {first:.0f} s, resumed in {second:.0f} s, same labels: {after == before}")
    shutil.rmtree(folder)
    return row


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw minutes and peak memory against rows, as SVG: two panels that start at zero."""
    panels = [
        ("minutes, .bin to labels", [row["seconds"] / 60 for row in rows], "#1f5fa8"),
        ("peak memory, GB", [row["peak_bytes"] / 1e9 for row in rows], "#b4541a"),
    ]
    millions = [row["num_rows"] / 1e6 for row in rows]
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 300" font-family="sans-serif" font-size="12">']
    parts.append('<rect width="760" height="300" fill="#fff"/>')
    for number, (title, values, colour) in enumerate(panels):
        left, bottom, width, height = 50 + 380 * number, 250, 300, 200
        points = [
            (left + width * x / max(millions), bottom - height * y / (1.1 * max(values)))
            for x, y in zip(millions, values, strict=True)
        ]
        path_of = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(left, bottom), *points])
        parts.append(f'<text x="{left}" y="30" font-weight="bold" fill="#222">{title}</text>')
        parts.append(f'<path d="M{left} 45V{bottom}H{left + width}" fill="none" stroke="#888"/>')
        parts.append(f'<polyline points="{path_of}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), million, value in zip(points, millions, values, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            right = max(x - 8, left + 24)  # of the axis, whatever the point
            parts.append(f'<text x="{right:.1f}" y="{y - 8:.1f}" text-anchor="end" fill="#222">{value:.1f}</text>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{million:.2g}</text>')
        parts.append(f'<text x="{left + width / 2}" y="{bottom + 36}" text-anchor="middle" fill="#555">million '
                     "vectors of 256 dimensions</text>")  # fmt: skip
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def main() -> None:
    """Measure the parts asked for and record them beside those recorded before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, by commas")
    parser.add_argument("--kill", action="store_true", help="run each a second time, killed at half time and resumed")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="a setting of the runs")
    parser.add_argument("--model", type=Path, help="a trained model; default: train one on part0 first")
    parser.add_argument("--method", help="one that needs no model, in place of a trained one")
    parser.add_argument("--remark", help="what to say of these rows: other work beside them, another training set")
    parser.add_argument("--work", type=Path, help="folder for data, kept, and runs; default: a temporary one")
    parser.add_argument("--plot", action="store_true", help="only draw the recorded rows")
    arguments = parser.parse_args()
    if arguments.plot:
        plain = [row for row in read_rows("scale") if row["method"] == "star_fc" and not row["settings"]]
        plot([row for row in plain if "remark" not in row], RECORDS / "scale.svg")
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        model = arguments.model or work / "model"
        if arguments.model is None and arguments.method is None:
            api.make_standin(work / "part0", PARTS["part1"], 0)
            api.train(
                work / "part0/features.bin", work / "part0/labels.meta", model, dim=256, method="star_fc", progress=True
            )
        scorer = ["--method", arguments.method] if arguments.method else ["--model", str(model)]
        remark = {"remark": arguments.remark} if arguments.remark else {}
        for part in arguments.parts.split(","):
            row = measure(part, work, scorer, arguments.settings, arguments.kill) | remark
            if arguments.work is None:
                shutil.rmtree(work / part)
            print(
                f"{part}: {row['num_rows']:,} rows, {row['seconds']:.0f} s, {row['peak_bytes'] / 1e9:.2f} GB, "
                f"pairwise F {100 * row['pairwise_f']:.1f}, BCubed F {100 * row['bcubed_f']:.1f}", flush=True
            )  # fmt: skip
            record_row(
                "scale", {"dim": 256, "model": "star_fc trained on part0"}, {**row, "settings": arguments.settings},
                ("part", "method", "settings"),
                lambda each: (list(PARTS).index(each["part"]), each["method"] != "star_fc", each["method"],
                              each["settings"]),
            )  # fmt: skip


if __name__ == "__main__":
    main()
