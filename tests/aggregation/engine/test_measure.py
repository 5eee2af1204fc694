"""Measuring updates: which tensors count, and who is blamed for values that cannot be measured."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.engine.measure import measure
from aggregation.engine.segments import Centre
from aggregation.errors import InvalidWeights, UpdatesRejected
from tests.aggregation.engine.engine_tools import passes_of, result_of, run, work_of

#: Rules that measure the updates' differences from a parent.
MEASURING: dict[str, dict[str, Any]] = {
    "norm_clipped_mean": {"max_norm": 1.0},
    "norm_filtered_mean": {},
    "centered_clipping": {"tau": 1.0},
    "krum": {"f": 1},
    "geometric_median": {},
}


def models(n: int, counter: int, dtype: Any = np.float32) -> list[dict[str, Any]]:
    """Return models with a BatchNorm counter between their floating-point tensors."""
    generator = np.random.default_rng(n)
    return [
        {
            "a.weight": generator.standard_normal((3, 5)).astype(dtype),
            "b.num_batches_tracked": np.array(counter * (position + 1), np.int64),
            "c.weight": generator.standard_normal(2000).astype(dtype),
            "d.mask": generator.integers(0, 255, 7).astype(np.uint8),
        }
        for position in range(n)
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rule", ["krum", "norm_clipped_mean"])
def test_norms_and_products_leave_out_integer_tensors(rule: str, dtype: Any) -> None:
    """What is measured is the same whether a model has integer tensors or not."""
    updates = models(6, 10**15, dtype)
    floats = [
        {name: array for name, array in update.items() if array.dtype.kind not in "iu"}
        for update in updates
    ]
    for centre in (Centre.MEDIAN, Centre.PARENT):
        measured = []
        for each in (updates, floats):
            with passes_of(rule, each, None, each[0], **MEASURING[rule]) as passes:
                measured.append(measure(passes, centre))
        np.testing.assert_allclose(measured[0], measured[1], rtol=1e-9)


@given(st.integers(0, 2**62), st.sampled_from(sorted(MEASURING)))
def test_counters_do_not_change_what_becomes_of_the_weights(counter: int, rule: str) -> None:
    """Whatever the integer tensors hold, the floating-point tensors of the result are the same."""
    results = []
    for each in (0, counter):
        updates = models(7, 0)
        for position, update in enumerate(updates):
            update["b.num_batches_tracked"] = np.array(each // (position + 1), np.int64)
        results.append(result_of(rule, updates[1:], None, updates[0], **MEASURING[rule]))
    for name in ("a.weight", "c.weight"):
        np.testing.assert_array_equal(results[0][name], results[1][name])


def test_a_model_of_integers_alone_has_norms_of_zero() -> None:
    """A model without floating-point tensors is measured as if all updates were equal."""
    updates = [{"n": np.array([value, 5], np.int32)} for value in range(5)]
    _, combined = run(work_of("krum", updates, f=1))
    assert combined.norms == [0.0] * 5
    assert combined.selection.members == (0,)


@pytest.mark.parametrize("rule", sorted(MEASURING))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_parent_that_is_not_finite_is_blamed(rule: str, value: float) -> None:
    """The error names the tensor and the place in the parent, and no update is rejected."""
    updates = models(7, 1)
    parent = updates[0]
    parent["c.weight"][1500] = value
    with pytest.raises(InvalidWeights, match=r"the parent has -?(nan|inf) in tensor 'c.weight'"):
        result_of(rule, updates[1:], None, parent, **MEASURING[rule])


@pytest.mark.parametrize("rule", ["weighted_mean", "coordinate_median"])
def test_a_parent_that_is_not_finite_is_blamed_for_differences(rule: str) -> None:
    """Differences that are added to such a parent are not rejected."""
    updates = models(3, 1)
    parent = updates[0]
    parent["a.weight"][1, 2] = np.nan
    with pytest.raises(
        InvalidWeights, match=r"the parent has nan in tensor 'a.weight' at \[1, 2\]"
    ):
        result_of(rule, updates[1:], None, parent, differences=True)


@pytest.mark.parametrize("rule", ["norm_clipped_mean", "krum"])
def test_a_parent_too_large_to_measure_from_is_blamed(rule: str) -> None:
    """If honest updates are far from the parent because its values are huge, the parent is blamed."""
    updates = models(6, 1, np.float64)
    parent = models(1, 1, np.float64)[0]
    parent["a.weight"][0, 0] = 1e200
    with pytest.raises(InvalidWeights, match="the parent has values so large"):
        result_of(rule, updates, None, parent, **MEASURING[rule])


@pytest.mark.parametrize("rule", ["norm_clipped_mean", "krum"])
@pytest.mark.parametrize("size", [1e160, -1e300])
def test_an_update_too_large_to_measure_is_blamed(rule: str, size: float) -> None:
    """Beside a parent of ordinary size, the update with the huge value is rejected, and only it."""
    updates = models(6, 1, np.float64)
    updates[4]["a.weight"][0, 0] = size
    with pytest.raises(UpdatesRejected) as caught:
        result_of(rule, updates, None, models(1, 1, np.float64)[0], **MEASURING[rule])
    assert list(caught.value.reasons) == [4]


def test_of_two_updates_the_huge_one_is_blamed() -> None:
    """The median of two updates is their mean, and both are far from it; the smaller one stays."""
    with pytest.raises(UpdatesRejected) as caught:
        result_of("geometric_median", [{"w": np.array([0.0, 1.0])}, {"w": np.array([1e300, 1.0])}])
    assert list(caught.value.reasons) == [1]
