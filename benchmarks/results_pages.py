"""The tables of ``docs/results/`` and ``docs/methods/constants.md``, made of the records: run it when one has changed.

    python benchmarks/results_pages.py

Writing a record does it by itself (``recording.py``). A test compares the pages with the records.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accuracy
import sensitivity
import without_labels_table
from outside_methods import METHODS
from recording import read_rows

FOLDER = Path(__file__).parents[1] / "docs"
_MADE = "<!-- made by benchmarks/results_pages.py of benchmarks/records; do not edit -->\n\n"


def accuracy_page() -> str:
    """Scores and costs of every method, trained on one half of the identities and run on the other."""
    rows = read_rows("accuracy")
    return f"""# Methods on other identities than they learned from

`python benchmarks/accuracy.py --data ../shared/data`: trained, and every parameter chosen, on one half of the
identities, run on the other. Pairwise F / BCubed F in percent, mean ± half of the range where there are several seeds.
A stand-in is made data. What the rows mean and what to keep in mind stands in [README.md](README.md).

{accuracy.table(rows, accuracy.scores)}

Seconds of training / of the run / peak memory in GB, of the first seed; the record says on which processor.

{accuracy.table(rows, accuracy.costs)}
"""


def without_labels_page() -> str:
    """The default without labels beside outside methods, on every set."""
    rows = read_rows("without_labels")
    return f"""# Without labels

`python benchmarks/without_labels.py`: one setting for all sets, labels score only. Pairwise F / BCubed F in percent;
the best of a line by the mean of both is bold.

{without_labels_table.tables(rows, [without_labels_table.ENGINE, *METHODS])}
"""


def installs_page() -> str:
    """The wheel in an empty environment of each Python."""
    lines = [
        "| Python | torch | seconds to install | GB installed | of it torch and CUDA | steps |",
        "|---|---|---|---|---|---|",
    ]
    for row in read_rows("installs"):
        if "missing" in row:
            lines.append(f"| {row['python']} | – | – | – | – | {row['missing']} |")
            continue
        gigabytes = [f"{row[name] / 1e9:.2f}" for name in ("installed_bytes", "torch_and_cuda_bytes")]
        steps = row.get("failed") or ", ".join(
            f"{name} {each['processor_s']:.1f}" for name, each in row["steps"].items()
        )
        lines.append(
            f"| {row['python']} | {row['torch']} | {row['install_s']:.0f} | {' | '.join(gigabytes)} | {steps} |"
        )
    return f"""# The wheel in empty environments

`python benchmarks/installs.py`: `WHEEL[cpu]` installed from the package index, then the first commands outside the
checkout, with a home that holds nothing. Steps with their processor seconds; the first run compiles.

{chr(10).join(lines)}
"""


def constants_page() -> str:
    """What each constant of the default without labels decides."""
    return f"""# The constants of the default without labels

What they mean and where their evidence stands is told beside each in
[label_free.py](../../engine/clustering/label_free.py). `python benchmarks/sensitivity.py --data ../shared/data`:
pairwise F / BCubed F in percent with one of them doubled or halved; `=` where the scores stay the same. A set on
which none of a constant's values matters says only that its case does not arise there.

{sensitivity.table(read_rows("sensitivity"))}
"""


PAGES: dict[str, Callable[[], str]] = {
    "results/accuracy.md": accuracy_page,
    "results/without_labels.md": without_labels_page,
    "results/installs.md": installs_page,
    "methods/constants.md": constants_page,
}


def pages() -> dict[str, Any]:
    """Return the text of each page by its name."""
    return {name: make().replace("\n", f"\n\n{_MADE.strip()}\n", 1) for name, make in PAGES.items()}


def write() -> None:
    """Write all pages."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
        print(f"page: {FOLDER / name}")


if __name__ == "__main__":
    write()
