"""KNN graphs from elsewhere: read by blocks of rows and brought to one form.

Shapes: N vertices, K neighbours per row (with the row itself, if the producer stores it).
"""

from __future__ import annotations

from os.path import abspath
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from engine.storage.formats.binary import RawRows, open_npy, open_npz
from engine.storage.formats.sources import check_range
from engine.storage.paths import check_readable, lies_there
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

Neighbors = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]

_ID_LIMIT = 2.0**53  # float ids are exact below it
_OK, _OUT_OF_RANGE, _NOT_FINITE = 0, 1, 2


class KnnGraphSource:
    """Neighbour lists as the producer wrote them: in its order, maybe with the row itself and with padding."""

    def __init__(self, path: Path, neighbors: RawRows, similarities: RawRows | None) -> None:
        self.path = str(path)
        self.num_rows = neighbors.num_rows
        self.k = neighbors.shape[-1]
        self.sequential = neighbors.sequential
        self._neighbors = neighbors
        self._similarities = similarities

    def read(self, start: int, stop: int) -> tuple[Neighbors, Similarities | None]:
        """Return neighbours (stop - start, k) int64, and cosines float32 of the same shape or None if not stored.

        Pass both to ``normalise_knn_block``. A ``sequential`` graph (compressed ``.npz``) is streamed, so a read that
        goes backwards starts again from the first row. Raises ``DataError`` for ids that are not whole numbers.
        """
        check_range(self.path, start, stop, self.num_rows)
        block = self._neighbors.read(start, stop)
        if self._similarities is self._neighbors:
            with np.errstate(over="ignore"):  # padding may hold the largest float
                return self._whole_ids(block[:, 0], start), (1.0 - block[:, 1]).astype(np.float32)
        neighbors = self._whole_ids(block, start)
        if self._similarities is None:
            return neighbors, None
        return neighbors, self._similarities.read(start, stop).astype(np.float32)

    def files(self) -> list[Path]:
        """Return every file of the graph."""
        used = [self._neighbors.path, *([] if self._similarities is None else [self._similarities.path])]
        return list(dict.fromkeys(used))

    def _whole_ids(self, ids: npt.NDArray[Any], start: int) -> Neighbors:
        if ids.dtype.kind == "f":
            whole = ((ids == np.rint(ids)) & (np.abs(ids) < _ID_LIMIT)).all(axis=1)
            if not whole.all():
                raise DataError(
                    f"{self.path}: row {start + int(np.argmin(whole))} has a neighbour id that is not whole"
                )
        if ids.dtype.kind == "u" and ids.size and ids.max() > np.iinfo(np.int64).max:
            row = int(np.argmax((ids > np.iinfo(np.int64).max).any(axis=1)))
            raise DataError(f"{self.path}: row {start + row} has a neighbour id of {ids[row].max()}; write -1 for none")
        return ids.astype(np.int64)


def open_knn_graph(path: str | Path, num_rows: int) -> KnnGraphSource:
    """Open a KNN graph of ``num_rows`` vertices.

    ``.npz`` with one array ``data`` (N, 2, K): ids, and distances 1 - cosine (``faiss_k_80.npz``). ``.npy`` (N, K + 1)
    of ids only, the first the row's own (L-GCN). A folder of ``neighbors.npy`` (N, K) and ``similarities.npy`` (N, K).
    Raises ``DataError`` for other shapes, another number of rows, and ids that a float type cannot hold exactly.
    """
    path = Path(abspath(path))
    if check_readable(path, "KNN graph"):
        graph = _open_folder(path)
    elif path.suffix.lower() == ".npz":
        rows = open_npz(path, preferred=("data",))
        if len(rows.shape) != 3 or rows.shape[1] != 2 or rows.dtype.kind != "f":
            raise DataError(
                f"{path}: expected floats of shape (N, 2, K), ids then distances, got {rows.dtype} of {rows.shape}"
            )
        if num_rows > 2 ** (np.finfo(rows.dtype).nmant + 1):
            raise DataError(f"{path}: {rows.dtype} cannot hold the ids of {num_rows} rows exactly; save float64")
        graph = KnnGraphSource(path, rows, rows)
    elif path.suffix.lower() == ".npy":
        graph = KnnGraphSource(path, _open_neighbors(path), None)
    else:
        raise DataError(f"{path}: not a known format of KNN graphs; supported: .npz, .npy, a folder of two .npy")
    if graph.num_rows != num_rows or graph.k == 0:
        raise DataError(
            f"{path}: is a graph of {graph.num_rows} rows and {graph.k} neighbours each, "
            f"but there are {num_rows} vectors"
        )
    return graph


def _open_folder(path: Path) -> KnnGraphSource:
    for name in ("neighbors.npy", "similarities.npy"):
        if not lies_there(path / name):
            raise DataError(f"{path}: a folder holding a KNN graph needs {name}")
    neighbors = _open_neighbors(path / "neighbors.npy")
    similarities = open_npy(path / "similarities.npy")
    if similarities.shape != neighbors.shape or similarities.dtype.kind != "f":
        raise DataError(
            f"{similarities.path}: expected floats of shape {neighbors.shape}, like neighbors.npy, "
            f"got {similarities.dtype} of shape {similarities.shape}"
        )
    return KnnGraphSource(path, neighbors, similarities)


def _open_neighbors(path: Path) -> RawRows:
    rows = open_npy(path)
    if len(rows.shape) != 2 or rows.dtype.kind not in "iu":
        raise DataError(f"{path}: expected integer neighbour ids of shape (N, K), got {rows.dtype} of {rows.shape}")
    return rows


def normalise_knn_block(
    start_row: int, neighbors_NK: npt.NDArray[Any], similarities_NK: npt.NDArray[Any], num_rows: int
) -> tuple[npt.NDArray[np.int32], Similarities]:
    """Bring neighbour lists to one form, for the rows from ``start_row`` of a graph of ``num_rows`` vertices.

    Drops the row itself and ids of -1, keeps the best of repeated neighbours, clips similarities to [-1, 1], and sorts
    each row by falling similarity, ties by the lower id. Returns int32 and float32 arrays of the input's shape; shorter
    rows end in ``NO_NEIGHBOR`` and ``NO_SIMILARITY``. Raises ``DataError`` naming the row for an id outside
    -1..num_rows - 1, or for a similarity that is not finite (unless its id is -1).
    """
    neighbors = np.ascontiguousarray(neighbors_NK, np.int64)
    similarities = np.ascontiguousarray(similarities_NK, np.float32)
    if neighbors.shape != similarities.shape or neighbors.ndim != 2:
        raise DataError(
            f"KNN rows from {start_row}: neighbours of shape {neighbors.shape} and similarities of shape "
            f"{similarities.shape}; expected the same (N, K)"
        )
    out_neighbors = np.full(neighbors.shape, NO_NEIGHBOR, np.int32)
    out_similarities = np.full(neighbors.shape, NO_SIMILARITY, np.float32)
    fault, row, column = _normalise(start_row, neighbors, similarities, num_rows, out_neighbors, out_similarities)
    if fault == _OUT_OF_RANGE:
        raise DataError(
            f"KNN graph, row {start_row + row}: neighbour id {neighbors[row, column]} is outside 0..{num_rows - 1} "
            f"(-1 for none); was the graph made from other vectors?"
        )
    if fault == _NOT_FINITE:
        raise DataError(
            f"KNN graph, row {start_row + row}: similarity to {neighbors[row, column]} is {similarities[row, column]}"
        )
    return out_neighbors, out_similarities


@numba.njit(nogil=True, cache=True)
def _normalise(
    start_row: int, neighbors: Any, similarities: Any, num_rows: int, out_neighbors: Any, out_similarities: Any
) -> tuple[int, int, int]:
    num, k = neighbors.shape
    size = 4
    while size < 2 * k:
        size *= 2
    seen_id = np.empty(size, np.int64)  # open addressing; a slot counts only if it is stamped with this row
    seen_row = np.full(size, -1, np.int64)
    ids = np.empty(k, np.int64)
    values = np.empty(k, np.float32)
    for row in range(num):
        count = 0
        for column in range(k):
            neighbor = neighbors[row, column]
            if neighbor < -1 or neighbor >= num_rows:
                return _OUT_OF_RANGE, row, column
            if neighbor == -1 or neighbor == start_row + row:
                continue
            value = similarities[row, column]
            if not np.isfinite(value):
                return _NOT_FINITE, row, column
            value = min(max(value, np.float32(-1.0)), np.float32(1.0))
            # Insertion sort: rows come sorted, or nearly so.
            at = count
            while at > 0 and (values[at - 1] < value or (values[at - 1] == value and ids[at - 1] > neighbor)):
                values[at] = values[at - 1]
                ids[at] = ids[at - 1]
                at -= 1
            values[at] = value
            ids[at] = neighbor
            count += 1
        kept = 0
        for i in range(count):
            slot = (ids[i] * 2654435761) & (size - 1)
            while seen_row[slot] == row and seen_id[slot] != ids[i]:
                slot = (slot + 1) & (size - 1)
            if seen_row[slot] == row:
                continue
            seen_row[slot] = row
            seen_id[slot] = ids[i]
            out_neighbors[row, kept] = ids[i]
            out_similarities[row, kept] = values[i]
            kept += 1
    return _OK, 0, 0
