"""What has changed since the full run whose scorer and thresholds a version still uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.collection.kept import Kept
from engine.collection.state import Layer, layer_ids
from engine.steps.ingest import row_column
from engine.storage.context import stage_facts

MOST_GROWTH = 0.25  # share of the full run's rows that updates add before a full run is due
FAR_SHARE = 0.25  # share of the rows added that lie far from all others, from which the data have drifted
FEWEST_FAR = 10  # rows, fewer of which are no drift


@dataclass(frozen=True)
class Content:
    """Rows without ids that were added as one file: its digest, the rows' numbers, and the update, 0 for the run."""

    digest: str
    start: int
    stop: int
    update: int


@dataclass(frozen=True)
class Since:
    """What has changed since a full run of ``full_rows`` rows.

    ``added``: rows that came since, whether or not they are still there. ``far``: how many of them lay as far from all
    other rows as few of the full run's rows did. ``contents``: the files of rows without ids, all of which are there.
    """

    full_rows: int
    added: int
    far: int
    contents: tuple[Content, ...]

    @property
    def due(self) -> str:
        """Why a full run is due, or an empty text."""
        if self.far >= FEWEST_FAR and self.far > FAR_SHARE * self.added:
            return (
                f"the data have drifted: of {self.added:,} rows added since the full run {self.far:,} lie as far from "
                f"all others as one in 20 of its rows did"
            )
        if self.added > MOST_GROWTH * self.full_rows:
            return f"{self.added:,} rows were added since the full run of {self.full_rows:,}"
        return ""

    def without(self, numbers: np.ndarray) -> Since:
        """The same, without the files that had the rows of these numbers."""
        whole = [each for each in self.contents if not ((numbers >= each.start) & (numbers < each.stop)).any()]
        return replace(self, contents=tuple(whole))

    def facts(self) -> dict[str, Any]:
        """What a compaction keeps, for ``since_full_run``."""
        contents = [[each.digest, each.start, each.stop, each.update] for each in self.contents]
        return {"full_rows": self.full_rows, "added": self.added, "far": self.far, "contents": contents}


def since_full_run(kept: Kept, layers: Sequence[Layer]) -> Since:
    """Add up what a version's layers have changed, and what had changed before."""
    facts, next_row = kept.facts, kept.next_row
    added, far = int(facts.get("added", 0)), int(facts.get("far", 0))
    contents = [Content(*each) for each in facts.get("contents", ())]
    for layer in (each for each in layers if each.added is not None):
        folder, rows = layer.folders
        told = stage_facts(folder)[0]
        added += told["rows"]
        far += round(told["far_share"] * told["rows"])
        ids = layer_ids(rows, next_row, told["rows"])
        if row_column(rows, "id") is None:
            contents.append(Content(layer.source, next_row, next_row + told["rows"], layer.update))
        next_row = ids.next_number(next_row)
    return Since(int(facts.get("full_rows", kept.num_rows)), added, far, tuple(contents))
