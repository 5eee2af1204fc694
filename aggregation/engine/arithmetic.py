"""Arithmetic on one slice of a block: conversions, checks for finite values, inner products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import finfo
from numpy.typing import NDArray

from aggregation.layout import BFLOAT16, is_integral
from aggregation.rules.base import Float64s, Floats, Numbers
from aggregation.rules.order import mean_of_ranks


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype holds floating-point numbers, bfloat16 included."""
    return not is_integral(dtype)


def as_floats(values: Numbers) -> Floats:
    """Return the same values in a dtype that numpy computes in: float32, or float64 for integers.

    float32 and float64 are returned as they are, not copied.
    """
    if values.dtype in (np.float32, np.float64):
        return values
    if values.dtype == BFLOAT16:
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32 if values.dtype == np.float16 else np.float64)


def as_stored(values: Float64s, dtype: np.dtype[Any]) -> Numbers:
    """Round values to a model's dtype: to nearest, ties to even; integers are clipped to its range."""
    if dtype == np.bool_:
        return values >= 0.5
    if is_integral(dtype):
        return _rounded_to_integers(values, dtype)
    if dtype == BFLOAT16:
        return _rounded_to_odd(values).astype(BFLOAT16)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def clipped_to_range(values: Float64s, dtype: np.dtype[Any]) -> Float64s:
    """Clip values in place to the finite range of a floating-point dtype; NaN stays."""
    largest = float(finfo(dtype).max)  # type: ignore[no-untyped-call]
    return np.asarray(np.clip(values, -largest, largest, out=values), np.float64)


def _rounded_to_integers(values: Float64s, dtype: np.dtype[Any]) -> Numbers:
    bounds = np.iinfo(dtype)
    rounded = np.rint(values)
    result = rounded.clip(float(bounds.min), float(bounds.max))
    # float64 cannot hold 2**63 - 1, so values that reach the bound are set to it, not converted.
    stored = np.where(result >= float(bounds.max), 0.0, result).astype(dtype)
    stored[result >= float(bounds.max)] = bounds.max
    return stored


def _rounded_to_odd(values: Float64s) -> NDArray[np.float32]:
    """Return float32 values that a second rounding, to fewer bits, rounds as one rounding would.

    Boldo and Melquiond, *When double rounding is odd*, 2005: truncate the value, and make the last
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
    """Return the rows that hold a NaN or an infinity, with the column of the first.

    A value that is not finite makes the sum of its row not finite, so the sums are a fast first test.
    A row of large finite values may fail it, and is then searched.
    """
    if not is_floating(values.dtype):
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
    """A value for which its update is rejected: its row and column in a slice, and a description."""

    row: int
    column: int
    what: str


def bad_values(block: Numbers) -> list[BadValue]:
    """Return a `BadValue` for each row that holds a value that is not finite."""
    found = nonfinite_rows(block)
    return [BadValue(row, column, str(block[row, column])) for row, column in found.items()]


def overflowing_values(
    block: Numbers, result: Numbers, coefficients: Sequence[float]
) -> list[BadValue]:
    """Return the values that make a result overflow its dtype although all rows are finite.

    At each such element they are those that contribute at least half as much as the largest one.
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


def differing_values(block: Numbers, expected: Numbers) -> list[BadValue]:
    """Return the first value of each row that differs from what is expected."""
    differs = block != expected
    found = []
    for row in np.flatnonzero(differs.any(axis=1)):
        column = int(np.argmax(differs[row]))
        what = f"{block[row, column]} instead of {expected[column]}: the tensor is frozen in this round,"
        found.append(BadValue(int(row), column, what))
    return found


def median(rows: Numbers) -> Float64s:
    """Return the median of each column; the rows are not changed."""
    return mean_of_ranks(np.array(as_floats(rows)), (len(rows) - 1) // 2, len(rows) // 2 + 1)


def inner_products(differences: Float64s) -> Float64s:
    """Return the inner products of all pairs of rows: (..., n, n), for (..., n, c)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(differences @ differences.swapaxes(-1, -2), np.float64)


def squared_norms(differences: Float64s) -> Float64s:
    """Return the inner products of the rows with themselves: (..., n), for (..., n, c).

    The differences are overwritten by their squares. The bits are the same on every processor, unlike those
    of `numpy.einsum`, which multiplies and adds in one operation where the processor can. Differential
    privacy needs this: a second attempt adds the same noise, and must add it to the same sum.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.square(differences, out=differences).sum(axis=-1), np.float64)
