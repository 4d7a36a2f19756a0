"""What Python callers hold: each kind gives the same vectors and labels, or one sentence that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from engine.errors import DataError
from engine.storage.formats.in_memory import as_labels, as_vectors

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
NAMES = ["bo", "ada", "bo", None, "zoe", ""]


class OnlyArrow:
    """An object of another library: it has the Arrow C interface and nothing else."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self.held.__arrow_c_array__(requested_schema)


class OnlyDlpack:
    """A tensor of another library, which has DLPack and nothing else."""

    def __dlpack__(self, **options: Any) -> Any:
        return X.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return X.__dlpack_device__()


@pytest.mark.parametrize(
    "make",
    [
        lambda: X,
        lambda: X.tolist(),
        lambda: list(X),
        lambda: [tuple(row) for row in X.tolist()],
        lambda: torch.tensor(X, requires_grad=True),
        lambda: [torch.tensor(row, requires_grad=True) for row in X],
        lambda: pd.DataFrame(X, columns=["f0", "f1", "f2"]),
        lambda: pd.DataFrame(X[:, ::-1], columns=[2, 1, 0]).assign(name="x"),
        lambda: pd.Series(list(X), index=range(10, 16)),
        lambda: pd.DataFrame({"id": range(6), "emb": X.tolist()}),
        lambda: pl.DataFrame(X, schema=["a", "b", "c"]),
        lambda: pl.Series(X.tolist()),
        lambda: pl.DataFrame({"emb": X}),
        lambda: pa.table({"emb": list(X), "n": range(6)}),
        lambda: pa.chunked_array([pa.array(list(X[:2])), pa.array(list(X[2:]))]),
        lambda: OnlyArrow(pa.array(list(X))),
        lambda: OnlyDlpack(),
    ],
)
def test_vectors(make: Callable[[], Any]) -> None:
    np.testing.assert_array_equal(as_vectors(make()).astype(np.float32), X)


def test_bfloat16_is_read_as_float32() -> None:
    found = as_vectors(torch.tensor(X).bfloat16())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, X, rtol=1e-2)


def test_missing_vectors_are_nan() -> None:
    expected = X.copy()
    expected[2] = np.nan
    rows = [None if i == 2 else row for i, row in enumerate(X.tolist())]
    for value in (rows, pd.Series(rows), pl.Series(rows), pa.array(rows)):
        np.testing.assert_array_equal(as_vectors(value).astype(np.float32), expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (scipy.sparse.csr_matrix(X), "a sparse matrix .*TruncatedSVD"),
        (["a red shoe", "a shoe"], "row 0 is a text, 'a red shoe', expected a vector; embed the texts first"),
        ([[1.0, 2.0], [1.0]], "row 1 has 1 values, but the first vector has 2"),
        (pa.array([[1.0, 2.0], [1.0]]), "row 1 has 1 values, but the others have 2"),
        (pd.DataFrame({"a": ["x"], "b": [1]}), r"no column is a list of floats.*it has a \(string\), b \(int64\)"),
        ({"a": X}, "got dict, expected an array, a list"),
        (3, "got int, expected an array"),
        (np.zeros((2, 2, 2)), r"expected a 2-D array"),
        (np.arange(6).reshape(3, 2), "got int64"),
        (X[0], r"expected a 2-D array"),
    ],
)
def test_what_is_not_vectors(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_vectors(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NAMES,
        lambda: np.array(NAMES, object),
        lambda: pd.Series(NAMES),
        lambda: pd.Series(NAMES, dtype="category"),
        lambda: pd.DataFrame({"who": NAMES}),
        lambda: pl.Series(NAMES),
        lambda: pa.array(NAMES),
        lambda: [0, 1, 0, -1, 2, -1],
        lambda: torch.tensor([0, 1, 0, -1, 2, -1]),
        lambda: np.array([[0], [1], [0], [-1], [2], [-1]], np.float32),
        lambda: pd.Series([0, 1, 0, -1, 2, -1], dtype="Int64"),
    ],
)
def test_labels(make: Callable[[], Any]) -> None:
    found = as_labels(make())
    assert found.dtype == np.int64
    assert found.tolist() == [0, 1, 0, -1, 2, -1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, None], "row 1 is null; write -1 for a row without a label"),
        (pd.Series([1, None]), "row 1 is n"),
        ([1, -3], "row 1 is -3"),
        ([], "holds no labels"),
        ([1, "a"], "labels of several types"),
        (np.zeros((3, 2), int), r"shape \(N,\)"),
        (pd.DataFrame({"a": [1], "b": [2]}), "a table of 2 columns"),
    ],
)
def test_what_is_not_labels(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_labels(value)
