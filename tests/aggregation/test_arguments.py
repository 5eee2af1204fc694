"""Arguments of rules and requirements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.arguments import number
from aggregation.errors import RuleError
from aggregation.rules import create_rule


@pytest.mark.parametrize(
    ("rule", "name", "value", "expected"),
    [
        ("krum", "f", np.int64(2), 2),
        ("trimmed_mean", "beta", np.float64(0.25), 0.25),
        ("trimmed_mean", "beta", np.float32(0.25), 0.25),
        ("norm_clipped_mean", "max_norm", np.float64(3), 3.0),
        ("norm_clipped_mean", "max_norm", np.int32(3), 3),
    ],
)
def test_numpy_scalars_become_python_numbers(
    rule: str, name: str, value: Any, expected: float
) -> None:
    """A rule accepts numpy's scalars and keeps plain numbers, which JSON can store."""
    kept = getattr(create_rule(rule, {name: value}), name)
    assert (kept, type(kept)) == (expected, type(expected))


@pytest.mark.parametrize("value", [True, np.True_, "3", None, 2.0, np.float64(2), [2]])
def test_what_is_not_a_whole_number_is_refused(value: Any) -> None:
    """A count must be an integer: neither a bool nor a float with a whole value."""
    with pytest.raises(RuleError, match="krum: f must be a whole number, at least 0; got"):
        create_rule("krum", {"f": value})


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, np.float64("nan"), "1", None, True])
def test_what_is_not_a_finite_number_is_refused(value: Any) -> None:
    """A measure must be a number that float64 can hold."""
    with pytest.raises(RuleError, match="max_norm must be a finite number, above 0; got"):
        create_rule("norm_clipped_mean", {"max_norm": value})


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-5, 5), st.floats(-5, 5))
def test_bounds_are_exclusive_or_inclusive_as_named(value: float, low: float, high: float) -> None:
    """``above`` and ``below`` exclude their bound, ``at_least`` and ``at_most`` include it."""

    def accepts(**bounds: float) -> bool:
        try:
            number("x", value, **bounds)
        except RuleError as error:
            return not str(error).startswith("x must be a finite number")
        return True

    assert accepts(above=low, below=high) is (low < value < high)
    assert accepts(at_least=low, at_most=high) is (low <= value <= high)
