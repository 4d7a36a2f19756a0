"""Ids of rows as the source names them: texts or integers, each of one row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import DataError

Array = np.ndarray[Any, Any]


class RowIds:
    """The id of each row, by row number: all texts, or all integers.

    Raises ``DataError`` for values that are neither, for a missing value and for an id of two rows; ``place`` is what
    errors call their source.
    """

    def __init__(self, values: Any, place: str = "ids") -> None:
        joined = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values)
        if isinstance(joined, pa.ChunkedArray):
            joined = pa.concat_arrays(joined.chunks)
        texts = pa.types.is_string(joined.type) or pa.types.is_large_string(joined.type)
        if not texts and not pa.types.is_integer(joined.type):
            raise DataError(f"{place}: ids of rows are texts or integers, got {joined.type}")
        if joined.null_count:
            row = int(np.argmax(joined.is_null().to_numpy(zero_copy_only=False)))
            raise DataError(f"{place}: row {row:,} has no id")
        try:
            self.values = joined.cast(pa.large_string() if texts else pa.int64())
        except pa.ArrowException as error:
            raise DataError(f"{place}: an id is beyond 64 bits ({error})") from None
        self.place = place
        if pc.count_distinct(self.values).as_py() != len(self.values):
            counts = pc.value_counts(self.values)
            twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
            rows = np.flatnonzero(pc.equal(self.values, twice).to_numpy(zero_copy_only=False))
            raise DataError(
                f"{place}: id {twice!r} stands at row {rows[0]:,} and at row {rows[1]:,}; expected one row of an id"
            )

    @classmethod
    def numbered(cls, start: int, stop: int) -> RowIds:
        """The ids of rows that the source gives none: their numbers."""
        return cls(np.arange(start, stop, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def are_texts(self) -> bool:
        """Whether ids are texts; else they are integers."""
        return bool(pa.types.is_large_string(self.values.type))

    def texts(self, rows: Array) -> list[str]:
        """The ids of these rows as texts, as decisions name rows."""
        return list(self.take(rows).values.cast(pa.large_string()).to_pylist())

    def find_texts(self, names: list[str]) -> Array:
        """The row of each id, which is given as a text, int64; -1 for an id that is not here."""
        wanted = pa.array(names, pa.large_string())
        found = pc.fill_null(pc.index_in(wanted, value_set=self.values.cast(pa.large_string())), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def numbers(self, rows: Array) -> Array:
        """The ids of these rows if ids are integers, int64; else none."""
        if self.are_texts:
            return np.empty(0, np.int64)
        return np.asarray(self.take(rows).values.to_numpy(zero_copy_only=False), np.int64)

    def next_number(self, at_least: int) -> int:
        """The first number from ``at_least`` on that is greater than all ids here, if they are integers."""
        greatest = None if self.are_texts else pc.max(self.values).as_py()
        return at_least if greatest is None else max(at_least, greatest + 1)

    def joined(self, other: RowIds) -> RowIds:
        """These rows' ids and then those of further rows, of the same kind and all different.

        Raises ``DataError`` that names an id of both.
        """
        if self.are_texts != other.are_texts:
            kinds = ["texts" if each.are_texts else "integers" for each in (self, other)]
            raise DataError(f"{other.place}: ids are {kinds[1]}, those of the collection are {kinds[0]}")
        both = pc.is_in(other.values, value_set=self.values)
        if pc.any(both).as_py():
            row = int(np.argmax(both.to_numpy(zero_copy_only=False)))
            raise DataError(
                f"{other.place}: row {row:,} has the id {other.values[row].as_py()!r}, as a row that is there already"
            )
        return self._of(pa.concat_arrays([self.values, other.values]))

    def take(self, rows: Array) -> RowIds:
        """The ids of these rows, in this order."""
        return self._of(self.values.take(pa.array(np.asarray(rows, np.int64))))

    def rows(self, ids: Iterable[Any]) -> Array:
        """The row of each id, int64. Raises ``DataError`` naming the first id that there is not."""
        wanted = self._parse(list(ids))
        found = pc.index_in(wanted, value_set=self.values)
        if found.null_count:
            missing = wanted.filter(found.is_null())
            more = f", nor are {len(missing) - 1:,} others" if len(missing) > 1 else ""
            raise DataError(f"id {missing[0].as_py()!r} is not in the collection{more}")
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def find(self, other: RowIds) -> Array:
        """The row here of each row of ``other`` by its id, int64; -1 for an id that is not here."""
        found = pc.fill_null(pc.index_in(other.values, value_set=self.values), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def to_list(self) -> list[Any]:
        """All ids as Python values."""
        return list(self.values.to_pylist())

    def _parse(self, ids: list[Any]) -> Any:
        """Ids as they are stored; texts of integers, as a file has them, count as integers."""
        try:
            if self.are_texts:
                return pa.array([str(each) for each in ids], pa.large_string())
            return pa.array([int(each) for each in ids], pa.int64())
        except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
            raise DataError(f"ids of the collection's rows are integers: {error}") from None

    def _of(self, values: Any) -> RowIds:
        """Ids that are known to be different."""
        result = object.__new__(RowIds)
        result.values, result.place = values, self.place
        return result
