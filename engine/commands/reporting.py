"""The report of a finished run, rendered and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.collection.versions import finished_updates
from engine.commands.cluster_map import map_points
from engine.commands.collection_report import collection_report_data
from engine.commands.report_data import report_data
from engine.commands.request import items_folders
from engine.commands.run_folder import open_run, places_read
from engine.errors import ConfigError
from engine.report.page import render_report
from engine.storage import manifest
from engine.storage.outputs import out_file, write_out
from engine.storage.places import Place, open_place

REPORT_FILE = "report.html"


def write_report(place: Place, items_root: Sequence[str] = (), *, cluster_map: bool = False) -> tuple[str, list[str]]:
    """Write ``report.html`` of a finished run into its folder; return where that is, and its warnings."""
    html, warnings = report_page(place.root, items_root, cluster_map=cluster_map)
    path = place.root / REPORT_FILE
    manifest.write_atomic(path, lambda stream: stream.write(html))
    place.publish(path)
    return f"{place}/{REPORT_FILE}", warnings


def report_page(root: Path, items_root: Sequence[str] = (), *, cluster_map: bool = False) -> tuple[bytes, list[str]]:
    """Render the report of a finished run from its committed stages and event log; return the page and its warnings."""
    data = collection_report_data(root, items_root) if finished_updates(root) else report_data(root, items_root)
    if cluster_map:
        if finished_updates(root):
            raise ConfigError(f"{root}: a map is of a run's clusters, and this one has updates")
        data = replace(data, map=map_points(root))
    return render_report(data).encode("utf-8", "backslashreplace"), data.warnings  # a path may be no UTF-8


def report(
    root: str | Path, out: str | Path | None = None, *, items_root: Sequence[str | Path] = (), cluster_map: bool = False
) -> tuple[str, list[str]]:
    """Render the HTML report of a finished run again, of a collection as it is now.

    It goes into the run, or to ``out``, a file or URL; then the run is only read.

    ``items_root``: folders, besides those that the run was given, of pictures to show. ``cluster_map``: with a map of
    the clusters, which takes scikit-learn and some seconds. Returns where the report is, and its warnings. Raises
    ``ConfigError`` and ``DataError`` as ``export`` does.
    """
    folders = items_folders(items_root) or ()
    here = open_run(root)
    if out is None:
        return write_report(open_place(root), folders, cluster_map=cluster_map)
    place = out_file(out, never=places_read(here, root))
    if Path(place).suffix.lower() not in ("", ".html", ".htm"):
        raise ConfigError(f"--out {place}: a report is a page; expected a name that ends in .html")
    html, warnings = report_page(here, folders, cluster_map=cluster_map)
    write_out(place, lambda path: manifest.write_atomic(path, lambda stream: stream.write(html)))
    return place, warnings
