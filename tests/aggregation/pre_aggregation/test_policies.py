"""Steps before the rule, together with the policies of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aggregation
from aggregation.engine import Resources


def model(rng: np.random.Generator) -> dict[str, Any]:
    """Return a model with tensors of every default policy, in three dtypes."""
    return {
        "layer.weight": rng.normal(size=(60, 80)).astype(np.float32),
        "bn.running_mean": rng.normal(size=80).astype(np.float32),
        "bn.running_var": rng.uniform(0.5, 1, size=80).astype(np.float32),
        "bn.num_batches_tracked": np.array(7, np.int64),
        "head.weight": rng.normal(size=(80, 10)).astype(np.float16),
    }


@pytest.mark.parametrize(
    ("steps", "rule", "arguments"),
    [
        (["nnm(f=2)"], "coordinate_median", {}),
        (["nnm(f=2)"], "bulyan", {"f": 1}),
        (["arc(f=2)", "nnm(f=2)"], "multi_krum", {"f": 1}),
        (["normalize"], "history_filter", {"f": 2}),
        (["normalize"], "coordinate_median", {}),
        (["bucketing(s=2)"], "coordinate_median", {}),
    ],
)
def test_steps_touch_only_what_the_rule_combines(
    steps: list[str], rule: str, arguments: dict[str, Any]
) -> None:
    """Averaged tensors are the median of the updates as they are, kept ones are the parent's, and the
    result does not depend on memory and threads."""
    rng = np.random.default_rng(0)
    parent, updates = model(rng), [model(rng) for _ in range(9)]
    updates[0]["bn.running_var"][:] = 1e30
    options: dict[str, Any] = {"pre_aggregation": steps, "seed": "5eed", **arguments}
    few = Resources(memory_bytes=1 << 15, workers=1, readers=1)
    found = aggregation.aggregate(rule, updates, None, parent, **options)
    again = aggregation.aggregate(rule, updates, None, parent, resources=few, **options)
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, again[name])
    for name in ("bn.running_mean", "bn.running_var"):
        median = np.median([update[name] for update in updates], axis=0)
        np.testing.assert_array_equal(found[name], median)
    assert found["bn.num_batches_tracked"] == 7
    assert found["layer.weight"].dtype == np.float32
    assert not np.array_equal(found["layer.weight"], parent["layer.weight"])
