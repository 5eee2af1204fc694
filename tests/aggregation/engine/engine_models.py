"""Rules, and models of several dtypes, for the tests of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from aggregation.policies import CHOICES, Policy, TensorPolicies

RULES: list[tuple[str, dict[str, Any]]] = [
    ("weighted_mean", {}),
    ("coordinate_median", {}),
    ("trimmed_mean", {"beta": 0.2}),
    ("krum", {"f": 1}),
    ("bulyan", {"f": 1}),
    ("geometric_median", {}),
    ("centered_clipping", {"tau": 3.0}),
    ("spectral_filter", {"f": 1}),
    ("history_filter", {"f": 1}),
    ("krum", {"f": 1, "pre_aggregation": ["nnm(f=1)"]}),
    ("coordinate_median", {"pre_aggregation": ["arc(f=1)", "bucketing(s=2)"]}),
]

every_rule = pytest.mark.parametrize(("name", "arguments"), RULES, ids=[name for name, _ in RULES])


def mixed_models(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return models of several dtypes, with a scalar and an empty tensor, of about 20,000 elements."""
    rng = np.random.default_rng(seed)
    return [
        {
            "a": rng.normal(size=(37, 101)).astype(np.float32),
            "b": rng.normal(size=(3001,)).astype(np.float16),
            "c": np.asarray(rng.normal(), np.float64),
            "d": np.zeros((0, 5), np.float32),
            "e": rng.integers(-1000, 1000, size=(501,)).astype(np.int64),
            "f": rng.integers(0, 255, size=(7,)).astype(np.uint8),
            "g": rng.normal(size=(100, 130)).astype(np.float64),
            "h": rng.normal(size=(33,)).astype(np.float32),
        }
        for _ in range(n)
    ]


policy_lists = st.lists(
    st.tuples(st.sampled_from(["[ae]", "[bf]", "c", "[dg]", "h"]), st.sampled_from(CHOICES))
)


def with_policies(updates: list[dict[str, Any]], policies: TensorPolicies) -> list[dict[str, Any]]:
    """Return updates with frozen tensors as in the last one, half of them without excluded ones."""
    parent = updates[-1]
    of = {name: policies.of(name, tensor.dtype) for name, tensor in parent.items()}
    return [
        {
            name: parent[name] if of[name] is Policy.FROZEN else tensor
            for name, tensor in update.items()
            if of[name] is not Policy.EXCLUDE or number % 2
        }
        for number, update in enumerate(updates)
    ]
