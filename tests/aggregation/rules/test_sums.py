"""The weighted sum: its bits are those of a loop over the rows, whatever numpy does inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.rules.sums import GROUP, weighted_sum

DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int32]


def one_by_one(rows: Any, coefficients: Sequence[float]) -> list[float]:
    """Return the sum as the documentation states it: in Python's floats, for one column at a time."""
    sums = []
    for column in rows.T:
        products = [float(value) * c for value, c in zip(column, coefficients, strict=True)]
        groups = [products[first : first + GROUP] for first in range(0, len(products), GROUP)]
        total = None
        for group in groups:
            of_group = group[0]
            for product in group[1:]:
                of_group += product
            if len(group) > 1:
                of_group += 0.0
            total = of_group if total is None else total + of_group
        sums.append(total)
    return sums  # type: ignore[return-value]


def bits(values: Any) -> Any:
    return np.asarray(values, np.float64).view(np.int64)


def values(seed: int, shape: tuple[int, int], dtype: Any) -> Any:
    """Return values of very different sizes, some of which are zeros of either sign."""
    generator = np.random.default_rng(seed)
    spread = generator.standard_normal(shape) * np.exp2(generator.integers(-12, 12, shape))
    spread[generator.random(shape) < 0.1] = 0.0
    spread[generator.random(shape) < 0.1] *= -0.0
    return spread.astype(dtype)


@given(
    n=st.integers(1, 40),
    width=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    whole=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_rows_are_added_in_order(n: int, width: int, dtype: Any, whole: bool, seed: int) -> None:
    """For any dtype, and for coefficients whose products are exact or not, the bits are the same."""
    rows = values(seed, (n, width), dtype)
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 10**6, n).astype(float)
    coefficients = (counts if whole else counts / 7.0).tolist()
    np.testing.assert_array_equal(
        bits(weighted_sum(rows, coefficients)), bits(one_by_one(rows, coefficients))
    )


@pytest.mark.parametrize("n", [2, 16, 17, 50, 200])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_wide_rows_are_added_in_order(n: int, dtype: Any) -> None:
    """The bits do not depend on numpy's buffers: rows may be longer, and begin anywhere in memory."""
    width = 20_001
    memory = np.zeros((n, 2 * width + 1), np.uint16 if dtype is np.float16 else np.uint32)
    rows = memory.view(dtype)[:, 1 : width + 1]
    rows[:] = values(n, (n, width), dtype)
    coefficients = np.random.default_rng(n).integers(1, 2**24, n).astype(float).tolist()
    total = bits(weighted_sum(rows, coefficients))
    columns = [0, 1, 8191, 8192, 16_383, 16_384, width - 2, width - 1]
    np.testing.assert_array_equal(total[columns], bits(one_by_one(rows[:, columns], coefficients)))
    for cut in (1, 2, 1000, 8193, width - 1):
        parts = weighted_sum(rows[:, :cut], coefficients), weighted_sum(rows[:, cut:], coefficients)
        np.testing.assert_array_equal(total, bits(np.concatenate(parts)))


@pytest.mark.parametrize("layout", ["columns", "repeated", "reversed"])
def test_the_layout_in_memory_does_not_matter(layout: str) -> None:
    """Rows that do not follow each other in memory are added in the same order."""
    rows = values(5, (30, 50), np.float32)
    coefficients = [float(n) for n in range(1, 31)]
    placed = {
        "columns": np.asfortranarray(rows),
        "repeated": np.broadcast_to(rows[:1], rows.shape),
        "reversed": rows[::-1],
    }[layout]
    np.testing.assert_array_equal(
        bits(weighted_sum(placed, coefficients)), bits(one_by_one(placed, coefficients))
    )


@pytest.mark.parametrize("coefficient", [1.0, 3.0, 1 / 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_the_sum_of_one_row_can_be_negative_zero(dtype: Any, coefficient: float) -> None:
    """One row keeps the signs of its zeros, as Krum's result must; a sum of several has none."""
    zeros = np.full((GROUP + 1, 3), -0.0, dtype)
    assert np.signbit(weighted_sum(zeros[:1], [coefficient])).all()
    for n in (2, GROUP, GROUP + 1):
        assert not np.signbit(weighted_sum(zeros[:n], [coefficient] * n)).any()


def test_differences_from_a_centre_are_added() -> None:
    """With a centre, the differences from it are added."""
    rows = values(0, (20, 30), np.float32)
    centre = values(1, (1, 30), np.float64)[0]
    coefficients = [float(n) for n in range(1, 21)]
    np.testing.assert_array_equal(
        bits(weighted_sum(rows, coefficients, centre)),
        bits(one_by_one(rows.astype(np.float64) - centre, coefficients)),
    )
