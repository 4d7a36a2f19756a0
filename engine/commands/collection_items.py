"""Texts and pictures of a collection's rows, which came with several sources: the run's, and those of updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.state import State
from engine.collection.versions import update_folder
from engine.commands.collection_tables import CollectionTables
from engine.commands.report_data import picture_cells, picture_folders
from engine.report.images import Pictures
from engine.steps.ingest import row_column
from engine.storage import manifest
from engine.storage.tables import take_joined


class SourcedItem(str):
    """The text of a row that came with the source of this number."""

    source: int


class SourcesPictures:
    """The pictures of several sources, each of which may have others of the same names.

    ``sources``: the manifest of each, ``None`` for a source that is not known any more, whose rows' pictures are found
    below ``--items-root`` alone. ``room``: bytes that all pictures may have; ``None`` means any.
    """

    def __init__(self, sources: Sequence[dict[str, Any] | None], items_root: Sequence[str], room: int | None) -> None:
        each = None if room is None else room // len(sources)
        self._pictures = [
            Pictures([Path(folder) for folder in items_root], room=each)
            if held is None
            else Pictures(picture_folders(held, items_root), picture_cells(held), room=each)
            for held in sources
        ]

    def fetch(self, items: Iterable[str]) -> None:
        """As in ``Pictures``."""
        texts = [item for item in items if isinstance(item, SourcedItem)]
        for number, pictures in enumerate(self._pictures):
            pictures.fetch(str(item) for item in texts if item.source == number)

    def find(self, item: str) -> str | None:
        """As in ``Pictures``."""
        return self._pictures[item.source].find(str(item)) if isinstance(item, SourcedItem) else None

    def refused(self) -> list[str]:
        """As in ``Pictures``."""
        return list(dict.fromkeys(text for pictures in self._pictures for text in pictures.refused()))


def collection_pictures(collection: CollectionTables, items_root: Sequence[str], room: int | None) -> SourcesPictures:
    """The pictures of what the collection rests on, and of its layers."""
    version = collection.held
    whole = not version.kept.facts.get("added", 0)  # else rows of several sources were written as one
    layers = [manifest.read_run(update_folder(collection.root, layer.update)) for layer in collection.state.layers]
    held = manifest.read_run(collection.root)
    return SourcesPictures([held if whole else None, *layers], items_root, room)


def item_texts(state: State) -> Any:
    """The texts of all rows, an Arrow column; ``None`` if there are none."""
    folders = [state.root / state.kept.rows, *(layer.folders[1] for layer in state.layers)]
    counts = [state.kept.num_rows, *(layer.num_rows for layer in state.layers)]
    return take_joined([row_column(folder, "item") for folder in folders], counts, np.arange(state.num_rows))


def sourced(state: State) -> Callable[[int, str], SourcedItem]:
    """Give what tells of a row's text which source it came with."""
    ends = np.cumsum([state.kept.num_rows, *(layer.num_rows for layer in state.layers)])

    def item(row: int, text: str) -> SourcedItem:
        found = SourcedItem(text)
        found.source = int(np.searchsorted(ends, row, side="right"))
        return found

    return item
