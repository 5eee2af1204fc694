"""The accuracy that docs/explanation/numerics.md states, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation import aggregate
from tests.aggregation.engine.engine_tools import vectors

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}


def half_unit(value: float, dtype: Any) -> Fraction:
    """Return half a unit in the last place of a value in a dtype."""
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    _, exponent = np.frexp(max(abs(value), float(info.tiny)))
    return Fraction(2) ** int(exponent - 2 - info.nmant)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_a_mean_is_as_accurate_as_documented(dtype: str, data: Any) -> None:
    """An element is within half a unit in the last place, and (m + 1) 2^-53 S, of the exact mean."""
    m = data.draw(st.integers(1, 40))
    scales = data.draw(st.lists(st.integers(-8, 8), min_size=m, max_size=m))
    counts = data.draw(st.lists(st.integers(1, 2**40), min_size=m, max_size=m))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = generator.standard_normal((m, 5)) * np.exp2(np.array(scales))[:, None]
    rows[: m // 2] = -rows[m - m // 2 :][::-1]  # Much of the sum cancels.
    rows = rows.astype(DTYPES[dtype])
    result = aggregate("weighted_mean", list(rows[:, None]), counts)[0]
    total = sum(counts)
    for column, found in zip(rows.T, result, strict=True):
        values = [Fraction(float(value)) for value in column]
        exact = sum(c * v for c, v in zip(counts, values, strict=True)) / total
        size = sum(c * abs(v) for c, v in zip(counts, values, strict=True)) / total
        allowed = half_unit(float(found), DTYPES[dtype]) + (m + 1) * size / 2**53
        assert abs(Fraction(float(found)) - exact) <= allowed


@given(st.integers(0, 2**32), st.integers(-60, 60))
def test_scaled_counts_change_no_bit(seed: int, exponent: int) -> None:
    """Counts that differ by a power of two, however large or small, give the same bytes."""
    generator = np.random.default_rng(seed)
    rows = vectors(generator.standard_normal((5, 20)), np.float64)
    counts = generator.integers(1, 1000, 5).astype(np.float64)
    plain = aggregate("weighted_mean", rows, counts)["w"]
    scaled = aggregate("weighted_mean", rows, counts * 2.0**exponent)["w"]
    np.testing.assert_array_equal(plain, scaled)
