"""The page of a model, ``README.md`` in its folder: its data, settings, scores and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from engine.process.terminal import shown
from engine.settings import Settings
from engine.storage.places import GIVEN_FOLDER

PAGE_FILE = "README.md"

_SCORES = {
    "held_out_f": "pairwise F",
    "held_out_precision": "precision",
    "held_out_recall": "recall",
    "held_out_bcubed_f": "BCubed F",
}


@dataclass(frozen=True)
class LearnedFrom:
    """The labelled vectors of a training: names of the files without their folders, and counts."""

    vectors: str
    labels: str
    num_rows: int
    num_labelled: int
    num_identities: int
    num_of_several_rows: int
    digest: str


def learned_from(vectors: str, labels: str, identities_N: np.ndarray, digest: str) -> LearnedFrom:
    """Describe labelled vectors; ``identities_N`` (N,) int64, -1 where unknown."""
    sizes = np.unique(identities_N[identities_N >= 0], return_counts=True)[1]
    return LearnedFrom(
        vectors=_name(vectors),
        labels=_name(labels),
        num_rows=len(identities_N),
        num_labelled=int(sizes.sum()),
        num_identities=len(sizes),
        num_of_several_rows=int((sizes > 1).sum()),
        digest=digest,
    )


def render_page(card: Mapping[str, Any], settings: Settings, data: LearnedFrom, holdout: float | None) -> str:
    """Render the page as Markdown; the same bytes for the same training.

    ``card``: the content of ``model.json``. ``settings``: the training's; those that were asked for are listed.
    ``holdout``: share of the identities whose rows were held out of learning; ``None`` if none were.
    """
    asked = _flat(settings.model_dump(mode="json", exclude_unset=True))
    listed = {"method": card["method"], "knn.k": card["k"], "seed": settings.seed} | asked | {"method": card["method"]}
    rows = "".join(f"| `{name}` | {_cell(json.dumps(value))} |\n" for name, value in listed.items())
    return f"""# A model of {_cell(card["method"])}

It tells which rows of {card["dim"]} dimensions belong together:

    asterism run --features VECTORS --model THIS_FOLDER --out run

asterism {card["engine_version"]} trained it. A run reads `model.json` and `model.safetensors` alone.

## Data

| | |
|---|---|
| vectors | {_cell(data.vectors)}, {data.num_rows:,} rows of {card["dim"]} dimensions |
| labels | {_cell(data.labels)}, {data.num_labelled:,} rows of {data.num_identities:,} identities |
| identities of several rows | {data.num_of_several_rows:,} |
| digest of the vectors | `{data.digest}` |

## Settings

Others stand at the defaults of that version (`asterism settings`).

| setting | value |
|---|---|
{rows}
## Scores

{_scores(card, holdout)}
## Limits

- It knows vectors of the same embedding model and preparation, of {card["dim"]} dimensions, alone.
- The scores are of identities of the same data. New identities chain more, and those of other data differ, so expect
  less; `asterism evaluate --run RUN --labels LABELS` measures it.
- Thresholds follow how alike and how many the identities of the training are. On a collection that is much larger or
  noisier look at the report first, and move `--precision-bias`.
- It carries whatever the labels had of errors and gaps: a group that was not among the identities was not learned.
"""


def _name(place: str) -> str:
    """Return the name of a file without its folders, which say nothing on other machines."""
    path = PurePath(place)
    return "data given in Python" if path.parent.name == GIVEN_FOLDER else path.name


def _scores(card: Mapping[str, Any], holdout: float | None) -> str:
    points: Mapping[str, Mapping[str, Any]] = card["operating_points"]
    scored = {name: point for name, point in points.items() if any(key in point for key in _SCORES)}
    if not scored:
        return "None were measured by the training.\n"
    whose = "all labelled identities" if holdout is None else f"identities held out of learning ({holdout:.0%})"
    lines = [
        f"On {whose}, in percent; thresholds were chosen on the same, so they are a little optimistic.",
        "",
        f"| partition | {' | '.join(_SCORES.values())} | operating point |",
        "|---|" + "---|" * (len(_SCORES) + 1),
    ]
    for name, point in scored.items():
        cells = [f"{100 * point[key]:.1f}" if key in point else "–" for key in _SCORES]
        chosen = ", ".join(
            f"`{key}` {value:.4g}" if isinstance(value, float) else f"`{key}` {value}"
            for key, value in point.items()
            if not key.startswith("held_out_")
        )
        mark = " (preferred)" if name == card["preferred"] else ""
        lines.append(f"| {name}{mark} | {' | '.join(cells)} | {chosen} |")
    return "\n".join(lines) + "\n"


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the settings of all sections by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def _cell(text: str) -> str:
    """Return a text for a cell of a table, in which nothing is markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_|<>[]" else letter for letter in shown(text))
