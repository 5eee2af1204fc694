"""The numbers in one slice of a block: what is in them that is not finite, what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregation.layout import BFLOAT16
from aggregation.rules.base import Float64s, Floats, Numbers
from aggregation.rules.order import mean_of_ranks


def as_floats(values: Numbers) -> Floats:
    """The same values, exactly, in a dtype numpy computes in: float32, or float64 for integers.

    float32 and float64 are returned as they are, not copied.
    """
    if values.dtype in (np.float32, np.float64):
        return values
    if values.dtype == BFLOAT16:
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32 if values.dtype == np.float16 else np.float64)


def as_stored(values: Float64s, dtype: np.dtype[Any]) -> Numbers:
    """Values rounded to a model's dtype: to nearest, ties to even; integers kept within range."""
    if dtype.kind in "iu":
        return _rounded_to_integers(values, dtype)
    if dtype == BFLOAT16:
        return _rounded_to_odd(values).astype(BFLOAT16)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _rounded_to_integers(values: Float64s, dtype: np.dtype[Any]) -> Numbers:
    bounds = np.iinfo(dtype)
    rounded = np.rint(values)
    result = rounded.clip(float(bounds.min), float(bounds.max))
    # float64 has no 2**63 - 1: what reaches the bound is set to it rather than converted.
    stored = np.where(result >= float(bounds.max), 0.0, result).astype(dtype)
    stored[result >= float(bounds.max)] = bounds.max
    return stored


def _rounded_to_odd(values: Float64s) -> NDArray[np.float32]:
    """float32 values from which a second rounding, to fewer bits, gives what one rounding would.

    Boldo and Melquiond, *When double rounding is odd*, 2005: cut the value off, and make the last
    bit odd if anything was lost.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    back = rounded.astype(np.float64)
    bits = rounded.view(np.uint32).copy()
    bits -= (np.abs(back) > np.abs(values)).astype(np.uint32)
    inexact = (back != values) & np.isfinite(values)
    bits |= inexact.astype(np.uint32)
    return bits.view(np.float32)


def nonfinite_rows(values: Numbers) -> dict[int, int]:
    """Rows that hold a NaN or an infinity, with the column of the first.

    A value that is not finite makes the sum of its row so; the sum is a fast first look, and rules
    nothing out that has none.
    """
    if values.dtype.kind in "iu":
        return {}
    floats = as_floats(values)
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(floats.sum(axis=1)))
    first = {}
    for row in suspects:
        columns = np.flatnonzero(~np.isfinite(floats[row]))
        if columns.size:
            first[int(row)] = int(columns[0])
    return first


@dataclass(frozen=True)
class BadValue:
    """A value that keeps its update out: in which row and column of a slice, and what it is."""

    row: int
    column: int
    what: str


def bad_values(block: Numbers) -> list[BadValue]:
    """A `BadValue` for each row that is not finite throughout."""
    found = nonfinite_rows(block)
    return [BadValue(row, column, str(block[row, column])) for row, column in found.items()]


def overflowing_values(
    block: Numbers, result: Numbers, coefficients: Sequence[float]
) -> list[BadValue]:
    """Who made a result overflow its dtype, where all rows are finite.

    Blamed at each such element is every row that contributes at least half as much as the one that
    contributes most.
    """
    blamed: dict[int, int] = {}
    for column in np.flatnonzero(~np.isfinite(as_floats(result[None, :])[0])):
        with np.errstate(over="ignore"):
            shares = np.abs(block[:, column].astype(np.float64) * np.asarray(coefficients))
        for row in np.flatnonzero(shares >= shares.max() / 2):
            blamed.setdefault(int(row), int(column))
    return [
        BadValue(
            row, column, f"{block[row, column]}, which makes the result overflow {result.dtype},"
        )
        for row, column in blamed.items()
    ]


def median(rows: Numbers) -> Float64s:
    """The median of each column; the rows are left as they are."""
    return mean_of_ranks(np.array(as_floats(rows)), (len(rows) - 1) // 2, len(rows) // 2 + 1)


def centred(rows: Numbers, centre: Float64s | None) -> Float64s:
    """The rows' differences from the centre, or the rows themselves, in float64.

    Centred before they are multiplied: honest updates differ by a small fraction of what the weights
    are, and uncentred products would lose just that to cancellation.

    Parameters
    ----------
    rows : (n, c)
    centre : (c,) float64, optional

    Returns
    -------
    (n, c) float64
    """
    differences = rows.astype(np.float64)
    if centre is not None:
        np.subtract(differences, centre, out=differences)
    return differences


def inner_products(differences: Float64s) -> Float64s:
    """(n, n) inner products of all pairs of rows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return differences @ differences.T


def squared_norms(differences: Float64s) -> Float64s:
    """(n,) inner product of each row with itself."""
    with np.errstate(over="ignore"):
        return np.asarray(np.square(differences).sum(axis=1), np.float64)
