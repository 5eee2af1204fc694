"""The settings of secure aggregation: what is refused, and which tensors are masked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import RuleError
from aggregation.layout import Tensor, TensorLayout
from aggregation.masks.settings import SecureAggregation, layout_digest, masked_layout
from aggregation.policies import Policy, TensorPolicies

KEY = "ab" * 32


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"keeper": "AB" * 32}, "public key"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"clip_norm": float("inf")}, "clip_norm"),
        ({"clip_norm": True}, "clip_norm"),
        ({"scale": 0.5}, "scale"),
        ({"min_cohort": 1}, "min_cohort"),
        ({"min_cohort": 20, "max_cohort": 10}, "larger than max_cohort"),
        ({"valid_days": 31}, "valid_days"),
        ({"scale": 1 << 22}, "scale of at most"),
        ({"colour": 1}, "knows"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, Any], why: str) -> None:
    """The message names the setting."""
    with pytest.raises(RuleError, match=why):
        SecureAggregation.from_json({"keeper": KEY, "clip_norm": 1.0, **fields})


def test_an_empty_object_switches_secure_aggregation_off() -> None:
    """Anything that is no object is refused."""
    assert SecureAggregation.from_json({}) is None
    with pytest.raises(RuleError, match="an object"):
        SecureAggregation.from_json([1])
    with pytest.raises(RuleError, match="needs keeper and clip_norm"):
        SecureAggregation.from_json({"keeper": KEY})


@given(st.floats(1e-6, 1e6), st.integers(1, 1 << 40), st.integers(2, 100_000))
def test_no_sum_leaves_32_bits(clip_norm: float, scale: int, cohort: int) -> None:
    """Settings that are accepted leave room for a cohort whose updates all have the limit's size."""
    try:
        settings = SecureAggregation(
            keeper=KEY, clip_norm=clip_norm, scale=scale, min_cohort=2, max_cohort=cohort
        )
    except RuleError:
        return
    assert settings.limit * cohort < 1 << 31


def test_settings_survive_json() -> None:
    """What is published is what the client reads."""
    settings = SecureAggregation(keeper=KEY, clip_norm=2.5)
    assert SecureAggregation.from_json(settings.to_json()) == settings


def test_only_what_the_rule_combines_is_masked() -> None:
    """Integers, kept, excluded and empty tensors are not sent; running statistics are averaged."""
    layout = TensorLayout(
        (
            Tensor("fc.weight", np.dtype("<f2"), (3, 2)),
            Tensor("bn.running_var", np.dtype("<f4"), (3,)),
            Tensor("bn.num_batches_tracked", np.dtype("<i8"), ()),
            Tensor("head.weight", np.dtype("<f4"), (5,)),
            Tensor("empty", np.dtype("<f4"), (0, 5)),
        )
    )
    policies = TensorPolicies((("head.*", Policy.EXCLUDE),))
    masked = masked_layout(layout, policies)
    assert [(t.name, str(t)) for t in masked.tensors] == [
        ("fc.weight", "U32 [3, 2]"),
        ("bn.running_var", "U32 [3]"),
    ]
    assert layout_digest(masked) != layout_digest(TensorLayout(masked.tensors[::-1]))
