"""Rounding from float64 to the dtype of the model."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aggregation.engine.arithmetic import as_stored


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (ml_dtypes.bfloat16, 1 + 2**-8 + 2**-30, 1 + 2**-7),
        (ml_dtypes.bfloat16, 1 + 3 * 2**-8 - 2**-30, 1 + 2**-7),
        (np.float16, 1 + 2**-11 + 2**-30, 1 + 2**-10),
        (np.float16, 1 + 3 * 2**-11 - 2**-30, 1 + 2**-10),
        (np.float32, 1 + 2**-24 + 2**-50, 1 + 2**-23),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_value_beside_a_tie_is_not_rounded_twice(
    dtype: Any, value: float, expected: float, sign: int
) -> None:
    """A value that float32 would round to a tie is rounded to its own side."""
    stored = as_stored(np.array([sign * value]), np.dtype(dtype))
    assert stored.dtype == dtype
    assert float(stored[0]) == sign * expected


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_a_tie_goes_to_even(dtype: Any) -> None:
    """Of the two neighbours of a tie, the one whose last bit is 0 is stored."""
    eps = float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    stored = as_stored(np.array([1 + eps / 2, 1 + 3 * eps / 2]), np.dtype(dtype))
    np.testing.assert_array_equal(stored.astype(float), [1, 1 + 2 * eps])
