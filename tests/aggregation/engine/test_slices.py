"""Tensor policies in the engine: what each of them makes of the updates."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aggregation.engine import Resources
from aggregation.engine.slices import stretches
from aggregation.errors import InvalidWeights, RuleError, UpdatesRejected
from aggregation.policies import DEFAULT, TensorPolicies
from tests.aggregation.engine.engine_tools import bytes_of, result_of, run, work_of

#: A network with BatchNorm, as torch names its tensors.
NAMES = ("conv.weight", "bn.weight", "bn.running_mean", "bn.running_var")


def network(rng: Any, scale: float = 1.0) -> dict[str, Any]:
    tensors: dict[str, Any] = {
        name: scale * rng.normal(size=50).astype(np.float32) for name in NAMES
    }
    tensors["bn.running_var"] = np.abs(tensors["bn.running_var"])
    tensors["bn.num_batches_tracked"] = np.asarray(rng.integers(1, 1000), np.int64)
    return tensors


@pytest.fixture
def networks() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [network(rng) for _ in range(8)]


def test_running_statistics_are_averaged_and_counters_are_kept(networks: Any) -> None:
    """Under a mean, running statistics are the weighted mean and counters are the parent's."""
    *updates, parent = networks
    counts = list(range(1, 8))
    result = result_of("weighted_mean", updates, counts, parent, policies=DEFAULT)
    np.testing.assert_array_equal(
        result["bn.num_batches_tracked"], parent["bn.num_batches_tracked"]
    )
    for name in NAMES:
        rows = [update[name].astype(np.float64) for update in updates]
        mean = np.average(rows, axis=0, weights=counts).astype(np.float32)
        np.testing.assert_array_equal(result[name], mean)


@pytest.mark.parametrize("differences", [False, True])
def test_a_robust_rule_takes_the_median_of_running_statistics(
    networks: Any, differences: bool
) -> None:
    """An update that Krum selects cannot set a running variance, which comes from all updates."""
    *updates, parent = networks
    for name in ("conv.weight", "bn.weight"):
        updates[3][name] = np.mean([update[name] for update in updates], axis=0)
    updates[3]["bn.running_var"][:] = 1e30
    work = work_of("krum", updates, None, parent, f=1, policies=DEFAULT)
    assert run(work)[1].selection.members == (3,)
    sent = updates
    if differences:
        sent = [
            {name: np.asarray(update[name] - parent[name]) for name in update} for update in updates
        ]
    result = result_of("krum", sent, None, parent, f=1, differences=differences, policies=DEFAULT)
    np.testing.assert_allclose(result["conv.weight"], updates[3]["conv.weight"], rtol=1e-5)
    median = np.median([update["bn.running_var"] for update in updates], axis=0)
    if differences:
        median = np.median([each["bn.running_var"] for each in sent], axis=0)
        median = np.maximum(parent["bn.running_var"].astype(float) + median, 0)
    np.testing.assert_allclose(result["bn.running_var"], median, rtol=1e-6)


def test_a_variance_stays_non_negative(networks: Any) -> None:
    """Negative variances cannot make the averaged variance negative."""
    *updates, parent = networks
    updates[0]["bn.running_var"] = np.full(50, -1e6, np.float32)
    updates[0]["bn.running_mean"] = np.full(50, -1e6, np.float32)
    result = result_of("weighted_mean", updates, None, parent, policies=DEFAULT)
    assert (result["bn.running_var"] == 0).all()
    assert (result["bn.running_mean"] < 0).all()


def test_distances_are_measured_over_optimized_tensors_only(networks: Any) -> None:
    """Values of other tensors change neither the norms nor the selection."""
    *updates, parent = networks
    work = work_of("multi_krum", updates, None, parent, f=1, policies=DEFAULT)
    expected = run(work)[1]
    for update in updates[:3]:
        for name in ("bn.running_mean", "bn.running_var"):
            update[name] = update[name] * 1e20
    found = run(work_of("multi_krum", updates, None, parent, f=1, policies=DEFAULT))[1]
    assert (found.selection, found.norms) == (expected.selection, expected.norms)
    differences = [
        np.concatenate([update[name] - parent[name] for name in NAMES[:2]]) for update in updates
    ]
    assert found.norms is not None
    np.testing.assert_allclose(found.norms, np.linalg.norm(differences, axis=1), rtol=1e-6)


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("dtype", [np.int64, np.float16, ml_dtypes.bfloat16])
def test_the_maximum_is_elementwise(dtype: Any, differences: bool) -> None:
    """Each element of a `max` tensor is the largest of the updates', in the tensor's dtype."""
    rows = [{"n": np.array([1, 7, -2]).astype(dtype)}, {"n": np.array([5, 0, -3]).astype(dtype)}]
    policies = TensorPolicies.from_list([["n", "max"]])
    parent = {"n": np.array([10, 20, 30]).astype(dtype)}
    work = work_of("weighted_mean", rows, None, parent, differences=differences, policies=policies)
    expected = np.maximum(rows[0]["n"], rows[1]["n"]) + (parent["n"] if differences else 0)
    expected = expected.astype(dtype)
    assert bytes_of(work).endswith(expected.tobytes())


def test_kept_tensors_have_the_value_of_the_parent(networks: Any) -> None:
    """Whatever the updates hold in a `keep` tensor, NaN included, the parent's value is kept."""
    *updates, parent = networks
    for update in updates:
        update["conv.weight"] = np.full(50, np.nan, np.float32)
    policies = TensorPolicies.from_list([["conv.*", "keep"]])
    cases: list[tuple[str, Any]] = [("weighted_mean", {}), ("krum", {"f": 1}), ("bulyan", {"f": 1})]
    for rule, arguments in cases:
        result = result_of(rule, updates, None, parent, policies=policies, **arguments)
        np.testing.assert_array_equal(result["conv.weight"], parent["conv.weight"])


def test_without_a_parent_a_kept_tensor_is_the_median() -> None:
    """A `keep` tensor of a first round is the median of all updates; of integers, the lower one."""
    updates = [
        {"n": np.array([n, 2**53 + n]), "w": np.array([n], np.float32)} for n in (4, 1, 3, 2**60)
    ]
    policies = TensorPolicies.from_list([["w", "keep"]])
    result = result_of("krum", updates, f=0, policies=policies)
    np.testing.assert_array_equal(result["n"], [3, 2**53 + 3])
    np.testing.assert_array_equal(result["w"], [3.5])


@pytest.mark.parametrize("differences", [False, True])
def test_booleans_are_kept_or_joined(differences: bool) -> None:
    """A mask keeps the parent's value; its maximum is true where the mask of an update is."""
    updates = [{"mask": np.array([1, 0, 0], bool)}, {"mask": np.array([0, 0, 1], bool)}]
    parent = {"mask": np.array([0, 1, 1], bool)}
    joined = TensorPolicies.from_list([["mask", "max"]])
    for policies, expected in (
        (DEFAULT, [0, 1, 1]),
        (joined, [1, 1, 1] if differences else [1, 0, 1]),
    ):
        options: Any = {"differences": differences, "policies": policies}
        result = result_of("weighted_mean", updates, None, parent, **options)["mask"]
        np.testing.assert_array_equal(result, np.array(expected, bool))


def test_a_mask_with_other_bytes_than_booleans_gives_booleans() -> None:
    """A byte that is neither 0 nor 1 counts as true, and does not reach the aggregate."""
    masks = [np.frombuffer(bytes([2, 0, 255]), bool), np.zeros(3, bool)]
    for policies, expected in (
        (TensorPolicies.from_list([["m", "max"]]), b"\1\0\1"),
        (DEFAULT, b"\0\0\0"),
    ):
        work = work_of("weighted_mean", [{"m": mask} for mask in masks], policies=policies)
        assert bytes_of(work).endswith(expected)


def test_excluded_tensors_are_not_in_the_updates(networks: Any) -> None:
    """Updates may lack `exclude` tensors, or hold them: the aggregate has the parent's value."""
    *updates, parent = networks
    for update in updates[1:]:
        del update["bn.weight"], update["bn.running_mean"]
    policies = TensorPolicies.from_list([["bn.weight", "exclude"], ["bn.*mean", "exclude"]])
    cases: list[tuple[str, Any]] = [("weighted_mean", {}), ("krum", {"f": 1}), ("bulyan", {"f": 1})]
    for rule, arguments in cases:
        work = work_of(rule, updates, None, parent, policies=policies, **arguments)
        for memory in (10_000, 10_000_000):
            stored = bytes_of(work, Resources(memory_bytes=memory))
            assert stored == bytes_of(work)
        result = result_of(rule, updates, None, parent, policies=policies, **arguments)
        for name in ("bn.weight", "bn.running_mean"):
            np.testing.assert_array_equal(result[name], parent[name])
    with pytest.raises(RuleError, match="need a parent"):
        work_of("weighted_mean", networks, policies=policies)


@pytest.mark.parametrize("differences", [False, True])
def test_updates_that_change_a_frozen_tensor_are_rejected(networks: Any, differences: bool) -> None:
    """Every update, also one that the rule would not select, must hold the parent's frozen values."""
    *updates, parent = networks
    for update in updates:
        update["conv.weight"] = np.array(parent["conv.weight"])
        if differences:
            update["conv.weight"][:] = 0
    policies = TensorPolicies((), frozen=("conv.*",))
    options = {"differences": differences, "policies": policies}
    result = result_of("krum", updates, None, parent, f=1, **options)
    np.testing.assert_array_equal(result["conv.weight"], parent["conv.weight"])
    expected = parent["conv.weight"][7] if not differences else np.float32(0)
    for bad in (2, 5):
        updates[bad]["conv.weight"][7] = 2.5
    with pytest.raises(UpdatesRejected) as caught:
        result_of("krum", updates, None, parent, f=1, **options)
    why = f"2.5 instead of {expected}: the tensor is frozen in this round, in tensor 'conv.weight' at [7]"
    assert caught.value.reasons == {2: why, 5: why}


def test_a_parent_that_is_not_finite_is_reported(networks: Any) -> None:
    """A kept value that is not finite fails the round, and no update is blamed."""
    *updates, parent = networks
    parent["conv.weight"][3] = np.inf
    policies = TensorPolicies.from_list([["conv.*", "keep"]])
    with pytest.raises(InvalidWeights, match=r"inf in tensor 'conv.weight' at \[3\]"):
        result_of("weighted_mean", updates, None, parent, policies=policies)


def test_alternating_tensors_are_read_in_one_stretch() -> None:
    """Frozen factors and kept counters between others do not interrupt the reading of a mean."""
    names = [f"layer{n}.{kind}" for n in range(9) for kind in ("A", "B", "num_batches_tracked")]
    tensors = {name: np.zeros(3, np.float32) for name in names}
    policies = TensorPolicies((), frozen=("*.A",))
    work = work_of("weighted_mean", [tensors] * 3, None, tensors, policies=policies)
    selection = run(work)[1].selection
    (stretch,) = stretches(work, selection, 0, work.layout.size)
    assert (list(stretch.members), stretch.with_parent) == ([0, 1, 2], True)


def test_only_averaged_tensors_of_all_updates_are_read() -> None:
    """Krum reads its update again, and of the others the running statistics alone."""
    tensors = {"a.weight": np.zeros(500, np.float32), "b.running_var": np.ones(7, np.float32)}
    work = work_of("krum", [tensors] * 5, None, tensors, f=1, policies=DEFAULT)
    read = run(work)[1].bytes_read
    assert read == 6 * work.layout.nbytes + 4 * 500 + 5 * 4 * 7
