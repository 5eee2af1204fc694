"""Tensor policies: which policy each tensor of a model has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aggregation.errors import RuleError
from aggregation.layout import Tensor, TensorLayout
from aggregation.policies import DEFAULT, OPTIMIZE_ALL, Policy, PolicyMap, TensorPolicies

F32, I64, BOOL = np.dtype("<f4"), np.dtype("<i8"), np.dtype("?")


@pytest.mark.parametrize(
    "name",
    [
        "bn1.running_mean",
        "layer1.0.bn2.running_var",
        "running_mean",
        "batch_normalization/moving_mean",
        "model/bn/moving_variance:0",
        "batch_stats/BatchNorm_0/mean",
        "batch_stats/mean",
        "batch_stats.encoder.BatchNorm_3.var",
    ],
)
def test_running_statistics_are_averaged(name: str) -> None:
    """The running statistics of torch, Keras and Flax are averaged; only variances are bounded."""
    assert DEFAULT.of(name, F32) is Policy.AVERAGE
    (run,) = PolicyMap(TensorLayout((Tensor(name, F32, (3,)),)), DEFAULT).runs
    assert run.non_negative == ("var" in name)


@pytest.mark.parametrize(
    ("name", "dtype", "policy"),
    [
        ("bn1.num_batches_tracked", I64, Policy.KEEP),
        ("position_ids", I64, Policy.KEEP),
        ("fc.weight", F32, Policy.OPTIMIZE),
        ("params/BatchNorm_0/mean", F32, Policy.OPTIMIZE),
        ("params/var", F32, Policy.OPTIMIZE),
    ],
)
def test_other_tensors_are_kept_or_optimized(name: str, dtype: Any, policy: Policy) -> None:
    """Integers are kept, and all other tensors are optimized."""
    assert DEFAULT.of(name, dtype) is policy


def test_the_first_match_counts() -> None:
    """A list is searched from its beginning, before the defaults."""
    policies = TensorPolicies.from_list(
        [["head.*", "exclude"], ["*.bias", "max"], ["*running_mean", "keep"]]
    )
    assert policies.of("head.bias", F32) is Policy.EXCLUDE
    assert policies.of("body.bias", F32) is Policy.MAX
    assert policies.of("bn.running_mean", F32) is Policy.KEEP
    assert policies.of("bn.running_var", F32) is Policy.AVERAGE
    assert policies.needs_parent
    assert not OPTIMIZE_ALL.needs_parent


def test_booleans_are_never_averaged() -> None:
    """Booleans are kept, unless a policy takes their maximum or excludes them."""
    listed = [["m", "max"], ["x", "exclude"], ["a", "average"], ["o", "optimize"]]
    policies = TensorPolicies.from_list(listed)
    found = [policies.of(name, BOOL) for name in "maxo"]
    assert found == [Policy.MAX, Policy.KEEP, Policy.EXCLUDE, Policy.KEEP]
    assert DEFAULT.of("attn.bias", BOOL) is Policy.KEEP


def test_frozen_tensors_stay_kept_or_excluded() -> None:
    """Freezing changes the policy of tensors that the round would change."""
    policies = TensorPolicies.from_list([["head.*", "exclude"], ["k", "keep"]], frozen=["*"])
    names = ("head.w", "k", "w", "bn.running_var")
    found = [policies.of(name, F32) for name in names]
    assert found == [Policy.EXCLUDE, Policy.KEEP, Policy.FROZEN, Policy.FROZEN]


@pytest.mark.parametrize(
    "listed",
    [
        {"w": "keep"},
        [["w"]],
        [["w", "frozen"]],
        [["w", "average", "keep"]],
        [[1, "keep"]],
        [["", "keep"]],
        [["w" * 201, "keep"]],
        [["w", ["keep"]]],
        [["w", "keep"]] * 101,
    ],
)
def test_an_invalid_list_is_refused(listed: Any) -> None:
    """What is not a list of globs and known policies is refused with what was expected."""
    with pytest.raises(RuleError, match=r"tensor_policies|tensor policy"):
        TensorPolicies.from_list(listed)
