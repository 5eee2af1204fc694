"""The weighted mean of scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.counts import capped_examples
from aggregation.scores import MAX_VALUE, is_score, weighted_mean_score

counts, values = st.integers(1, 10**9), st.floats(-MAX_VALUE, MAX_VALUE)


@given(st.lists(st.tuples(counts, values), min_size=1, max_size=30))
def test_a_weighted_mean_lies_between_its_values(scores: list[tuple[int, float]]) -> None:
    """The mean of any scores is finite and lies between the smallest and the largest score."""
    results = [{"num_examples": count, "m": value} for count, value in scores]
    mean = weighted_mean_score(results, "m").value
    low, high = min(value for _, value in scores), max(value for _, value in scores)
    slack = 1e-12 * max(abs(low), abs(high))
    assert mean is not None
    assert low - slack <= mean <= high + slack


@pytest.mark.parametrize("value", [True, "1", None, [1.0], math.nan, math.inf, 1e301, 10**400])
def test_what_is_not_a_score_is_left_out(value: object) -> None:
    """Results whose value is not a bounded number do not change the mean."""
    assert not is_score(value)
    assert weighted_mean_score([{"m": 2.0}, {"m": value}], "m").value == 2.0
    assert weighted_mean_score([{"m": value}, {}], "m").value is None


@pytest.mark.parametrize("count", [None, "many", -5, 0, math.nan])
def test_a_result_without_a_valid_count_counts_one_example(count: object) -> None:
    """A missing or invalid number of examples is taken as one."""
    results: list[dict[str, Any]] = [
        {"m": 1.0, "num_examples": 3},
        {"m": 5.0, "num_examples": count},
    ]
    assert weighted_mean_score(results, "m").value == 2.0


def test_the_cap_limits_what_one_client_counts() -> None:
    """A count above the cap counts as the cap; without a cap it counts in full."""
    results = [{"m": 1.0, "num_examples": 10**9}, {"m": 3.0, "num_examples": 10}]
    assert weighted_mean_score(results, "m", cap=10).value == 2.0
    assert capped_examples(10**9, 10) == 10
    assert capped_examples(10**9, None) == 10**9
