"""The numbers of examples that updates count."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.counts import example_counts
from aggregation.errors import AggregationError


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (5, "one count for each update; got 5"),
        ("12", "one count for each update; got '12'"),
        ({"a": 1, "b": 2}, "one count for each update"),
        (np.float64(3), "one count for each update"),
        (np.array(3), "one count for each update"),
        ([1], "1 counts for 2 updates"),
        ([1, 2, 3], "3 counts for 2 updates"),
        ([1, 0], "must be positive numbers"),
        ([1, -1], "must be positive numbers"),
        ([1, math.nan], "must be positive numbers"),
        ([1, math.inf], "must be positive numbers"),
        ([1, 5e-324], "must be positive numbers"),
        ([1, 10**400], "must be positive numbers"),
        ([1, None], "must be positive numbers"),
        ([1, "2"], "must be positive numbers"),
        ([1, True], "must be positive numbers"),
        ([1, [2, 3]], "must be positive numbers"),
        ([1e308, 1e308], "sum of num_examples is too large"),
        ([1e300, 1e-300], "differ by more than float64 can hold"),
    ],
)
def test_invalid_counts_are_refused(counts: Any, message: str) -> None:
    """Each count must be a positive number that float64 holds, and so must their sum."""
    with pytest.raises(AggregationError, match=message):
        example_counts(counts, 2)


@pytest.mark.parametrize(
    "counts",
    [
        [3, 1],
        (3, 1),
        np.array([3, 1]),
        np.array([3, 1], np.float32),
        iter([3, 1]),
        [3.0, np.int8(1)],
    ],
)
def test_any_sequence_of_numbers_is_accepted(counts: Any) -> None:
    """Lists, arrays and iterators of numbers give floats."""
    assert example_counts(counts, 2) == [3.0, 1.0]
    assert example_counts(None, 2) == [1.0, 1.0]


positive = st.floats(min_value=1e-100, max_value=1e100)


@given(st.lists(positive, min_size=1, max_size=8))
def test_scaling_keeps_the_shares(counts: list[float]) -> None:
    """Counts are multiplied by one power of two, and come out where products with values are safe."""
    scaled = example_counts(counts, len(counts))
    factors = {Fraction(new) / Fraction(old) for new, old in zip(scaled, counts, strict=True)}
    assert len(factors) == 1
    mantissa, _ = math.frexp(float(factors.pop()))
    assert mantissa == 0.5
    assert max(scaled) <= 2**53
    assert min(scaled) >= sys.float_info.min


@given(st.lists(st.integers(1, 2**53), min_size=1, max_size=8))
def test_whole_counts_are_not_scaled(counts: list[int]) -> None:
    """Counts that a client may claim are used as they are."""
    assert example_counts(counts, len(counts)) == counts
