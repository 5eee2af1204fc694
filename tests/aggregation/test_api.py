"""`aggregation.aggregate`: the engine on arrays in memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import aggregation
from aggregation.engine import Resources
from aggregation.errors import (
    AggregationError,
    InvalidWeights,
    NotEnoughUpdates,
    RuleError,
    UpdatesRejected,
)
from tests.aggregation.optimizers.oracles import trajectory


def test_mappings_give_a_mapping_in_the_models_order_and_dtypes() -> None:
    """Names, their order, shapes and dtypes are those of the first update."""
    one = {
        "b": np.array([[1, 2]], np.float16),
        "a": np.float32(3),
        "none": np.zeros((0, 2), np.float64),
    }
    other = {"none": one["none"], "a": np.float32(5), "b": np.array([[3, 6]], np.float16)}
    result = aggregation.aggregate("unweighted_mean", [one, other])
    assert list(result) == ["b", "a", "none"]
    assert [array.dtype for array in result.values()] == [np.float16, np.float32, np.float64]
    np.testing.assert_array_equal(result["b"], [[2, 4]])
    assert result["a"].shape == ()
    assert result["a"] == 4
    assert result["none"].shape == (0, 2)


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_and_tuples_give_lists_and_tuples(kind: type) -> None:
    """Layers by position are returned by position, in the same kind of sequence."""
    updates = [kind([[1.0, 2.0], [[3.0]]]), kind([[5.0, 6.0], [[7.0]]])]
    result: Any = aggregation.aggregate("weighted_mean", updates, [3, 1])
    first, second = result
    assert type(result) is kind
    np.testing.assert_array_equal(first, [2, 3])
    np.testing.assert_array_equal(second, [[4]])


def test_the_mean_of_python_numbers_is_not_rounded() -> None:
    """Lists of Python's numbers are float64, even if all are whole; arrays keep their dtype."""
    result = aggregation.aggregate("weighted_mean", [{"w": [0, 1], "b": 1}, {"w": [1, 2], "b": 2}])
    assert {name: array.dtype for name, array in result.items()} == {
        "w": np.float64,
        "b": np.float64,
    }
    np.testing.assert_array_equal(result["w"], [0.5, 1.5])
    assert result["b"] == 1.5


def test_integers_are_kept_unless_a_policy_says_otherwise() -> None:
    """Arrays of integers keep their dtype, and the value of the parent unless all is optimized."""
    updates = [{"n": np.array([0, 1])}, {"n": np.array([1, 2])}]
    for options, expected in (
        ({"parent": {"n": np.array([7, 8])}}, [7, 8]),
        ({}, [0, 1]),
        ({"tensor_policies": [("*", "optimize")]}, [0, 2]),
        ({"tensor_policies": [("n", "max")]}, [1, 2]),
    ):
        result = aggregation.aggregate("weighted_mean", updates, **options)["n"]
        assert result.dtype == np.int64
        np.testing.assert_array_equal(result, expected)


def test_excluded_tensors_may_be_missing_in_updates() -> None:
    """The result has the parent's value of a tensor that the updates lack."""
    parent = {"w": np.zeros(2), "head": np.ones(3)}
    updates = [{"w": np.ones(2)}, {"w": np.full(2, 3.0), "head": np.zeros(3)}]
    exclude = [("head", "exclude")]
    result = aggregation.aggregate("weighted_mean", updates, None, parent, tensor_policies=exclude)
    np.testing.assert_array_equal(result["w"], [2, 2])
    np.testing.assert_array_equal(result["head"], [1, 1, 1])


def test_arrays_may_have_any_memory_layout() -> None:
    """Views, Fortran order and the other byte order are read by value, and nothing is changed."""
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    ways = [
        plain,
        np.asfortranarray(plain),
        plain.astype(">f4"),
        np.repeat(plain, 2, axis=1)[:, ::2],
    ]
    before = [way.copy() for way in ways]
    result = aggregation.aggregate("coordinate_median", [[way] for way in ways])
    np.testing.assert_array_equal(result[0], plain)
    for way, copy in zip(ways, before, strict=True):
        np.testing.assert_array_equal(way, copy)


def test_bfloat16_stays_bfloat16() -> None:
    """The dtype bfloat16, which numpy lacks, is accepted and returned."""
    updates = [[np.array([value], ml_dtypes.bfloat16)] for value in (1, 2)]
    (result,) = aggregation.aggregate("unweighted_mean", updates)
    assert result.dtype == ml_dtypes.bfloat16
    assert float(result[0]) == 1.5


def test_parent_and_arguments_reach_the_rule() -> None:
    """A rule on differences measures from the parent, and the result has the parent's structure."""
    result = aggregation.aggregate(
        "norm_clipped_mean", [[[10.0, 3.0]]], parent=([10.0, 0.0],), max_norm=1.0
    )
    assert isinstance(result, tuple)
    np.testing.assert_allclose(result[0], [10, 1])


def test_differences_are_added_to_the_parent() -> None:
    """With ``differences=True`` the updates are added to the parent."""
    updates = [{"w": [1.0]}, {"w": [3.0]}]
    result = aggregation.aggregate(
        "unweighted_mean", updates, parent={"w": [5.0]}, differences=True
    )
    np.testing.assert_array_equal(result["w"], [7])


def test_rejected_updates_are_named_and_can_be_left_out() -> None:
    """The error gives the bad updates by position with reasons; without them the call succeeds."""
    updates: list[Any] = [[[1.0, 2.0]], [[1.0]], [[np.nan, 1.0]], [[3.0, 4.0]], [["a", "b"]]]
    with pytest.raises(UpdatesRejected) as caught:
        aggregation.aggregate("unweighted_mean", updates)
    assert set(caught.value.reasons) == {1, 4}
    assert "'arr_0' is F64 [1], the model's is F64 [2]" in caught.value.reasons[1]
    updates = [update for position, update in enumerate(updates) if position not in (1, 4)]
    with pytest.raises(UpdatesRejected) as caught:
        aggregation.aggregate("unweighted_mean", updates)
    assert caught.value.reasons == {1: "nan in tensor 'arr_0' at [0]"}
    del updates[1]
    np.testing.assert_array_equal(aggregation.aggregate("unweighted_mean", updates)[0], [2, 3])


def test_one_odd_update_does_not_decide_the_layout() -> None:
    """Without a parent, the layout of most updates is the model's, even if the first one differs."""
    with pytest.raises(UpdatesRejected) as caught:
        aggregation.aggregate("unweighted_mean", [[[1.0, 1.0]], [[1.0]], [[1.0]]])
    assert set(caught.value.reasons) == {0}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1], "1 counts for 2 updates"),
        ([1, 0], "positive"),
        ([1, -1], "positive"),
        ([1, float("nan")], "positive"),
        ([1, float("inf")], "positive"),
    ],
)
def test_invalid_counts_are_refused(counts: list[float], message: str) -> None:
    """There must be one positive number for each update."""
    with pytest.raises(AggregationError, match=message):
        aggregation.aggregate("weighted_mean", [[[1.0]], [[2.0]]], counts)


def test_each_missing_precondition_has_its_error() -> None:
    """No updates, an unknown rule and a missing parent raise different errors."""
    with pytest.raises(NotEnoughUpdates):
        aggregation.aggregate("weighted_mean", [])
    with pytest.raises(RuleError, match="unknown aggregation rule 'mode'"):
        aggregation.aggregate("mode", [[[1.0]]])
    with pytest.raises(RuleError, match="centered_clipping needs a parent"):
        aggregation.aggregate("centered_clipping", [[[1.0]]], tau=1.0)
    with pytest.raises(NotEnoughUpdates, match="krum needs at least 5 updates, 1 are there"):
        aggregation.aggregate("krum", [[[1.0]]], f=1)


def test_importing_the_package_is_light() -> None:
    """``import aggregation`` imports neither numpy nor Django nor an SDK."""
    code = "import aggregation, sys; print({'numpy', 'django', 'boto3'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_any_iterable_of_updates_is_accepted() -> None:
    """A generator, a tuple, the values of a dict: what can be iterated over is a sequence of updates."""
    updates = {"alice": {"w": [1.0]}, "bob": {"w": [3.0]}}
    for given in (updates.values(), tuple(updates.values()), (each for each in updates.values())):
        np.testing.assert_array_equal(aggregation.aggregate("unweighted_mean", given)["w"], [2])
    layers = (iter([np.array([value]), np.array([value])]) for value in (1.0, 3.0))
    np.testing.assert_array_equal(aggregation.aggregate("unweighted_mean", layers), [[2], [2]])


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"w": [1.0]}, "put a single update in a list"),
        (5, "updates must be a sequence of updates, such as a list of dicts; got int"),
        (None, "got NoneType"),
        ("updates", "got str"),
        (np.float64(1), "got float64"),
        (np.array(1.0), "got ndarray"),
    ],
)
def test_what_is_not_a_sequence_of_updates_is_refused(updates: Any, message: str) -> None:
    """The error says what was expected instead."""
    with pytest.raises(AggregationError, match=message):
        aggregation.aggregate("unweighted_mean", updates)


class Module:
    """A stand-in for a module of PyTorch."""

    def state_dict(self) -> dict[str, Any]:
        return {"w": np.ones(2)}


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (1.0, "expected a mapping of names to arrays, or a list of arrays; got float"),
        ("w", "got str"),
        (None, "got NoneType"),
        (Module(), "pass its state_dict()"),
        ({"w": {"b": [1.0]}}, "tensor 'w' is of type dict, expected an array"),
        ({"w": None}, "tensor 'w' is of type NoneType"),
        ({"w": [[1.0], [1.0, 2.0]]}, "tensor 'w' is not an array"),
        ({"w": np.array([1j])}, "dtype complex128; known are float16"),
        ({"w": [10**400]}, "dtype object"),
        ({"w": np.ma.array([1.0, 2.0], mask=[False, True])}, "masked array: call its filled"),
        ({1: [1.0], "1": [2.0]}, "two of the tensors have the same name"),
        ([("w", np.ones(2)), ("b", np.ones(3))], "tensor 'arr_0' is not an array"),
    ],
)
def test_an_update_that_is_not_a_model_is_rejected(update: Any, message: str) -> None:
    """The reason says which value is wrong and what was expected."""
    with pytest.raises(UpdatesRejected) as caught:
        aggregation.aggregate("unweighted_mean", [{"w": [1.0]}, update, {"w": [2.0]}])
    assert message in caught.value.reasons[1]


def test_the_keys_of_the_result_are_those_of_the_model() -> None:
    """Keys that are not strings come back as they were, in their order."""
    result = aggregation.aggregate("unweighted_mean", [{1: [1.0], 0: [3.0]}, {0: [5.0], 1: [3.0]}])
    assert list(result) == [1, 0]
    np.testing.assert_array_equal(result[1], [2])


def test_the_names_and_the_number_of_tensors_are_free() -> None:
    """A result in memory has no header that could limit names or their number."""
    updates = [
        {"__metadata__": np.full(1, value, np.float32), "": np.full(1, value, np.float32)}
        | {f"layer.{number}": np.float16(value) for number in range(10_000)}
        for value in (1, 3)
    ]
    result = aggregation.aggregate("unweighted_mean", updates)
    assert list(result) == list(updates[0])
    assert {float(array.sum()) for array in result.values()} == {2.0}
    assert all(array.flags.aligned and array.flags.writeable for array in result.values())


def test_single_arrays_are_models_of_one_tensor() -> None:
    """Each row of a 2-d array is an update, and the result is an array."""
    rows = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    for updates in (rows, list(rows)):
        result = aggregation.aggregate("unweighted_mean", updates, parent=rows[0])
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, [2, 4])
    assert aggregation.aggregate("unweighted_mean", np.array([1.0, 3.0])) == 2.0


class Tensor:
    """A stand-in for a tensor of PyTorch that requires grad, with the methods that conversion needs."""

    def __init__(self, values: Any, dtype: str, detached: bool = False) -> None:
        self._values = values
        self.dtype = f"torch.{dtype}"
        self.shape = np.shape(values)
        self._detached = detached

    def detach(self) -> Tensor:
        return Tensor(self._values, self.dtype.removeprefix("torch."), detached=True)

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(np.float32(self._values), "float32", self._detached)

    def numpy(self) -> Any:
        if not self._detached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.asarray(self._values, self.dtype.removeprefix("torch."))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.numpy()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64", "int64"])
def test_tensors_of_pytorch_are_converted(dtype: str) -> None:
    """Parameters that require grad, and bfloat16, which `numpy()` refuses, are accepted."""
    updates = [{"w": Tensor([value, 2 * value], dtype)} for value in (1.0, 3.0)]
    policies = [("*", "optimize")]
    result = aggregation.aggregate("unweighted_mean", updates, tensor_policies=policies)["w"]
    assert str(result.dtype) == dtype
    np.testing.assert_array_equal(result.astype(np.float64), [2, 4])


def test_a_parent_that_is_not_a_model_is_refused() -> None:
    """An invalid parent is not blamed on the updates."""
    for parent, message in (
        ({"w": "text"}, "the parent cannot be used: tensor 'w' is of type str"),
        (5, "the parent cannot be used: expected a mapping"),
        ({"w": [np.nan]}, "the parent has nan in tensor 'w'"),
    ):
        with pytest.raises(InvalidWeights, match=message):
            aggregation.aggregate("norm_clipped_mean", [{"w": [1.0]}], parent=parent, max_norm=1.0)


def test_the_info_names_the_selected_updates() -> None:
    """``return_info`` returns positions, scaling factors, norms and distances beside the result."""
    rows = [[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.1, 0.1], [30.0, 40.0]]
    updates = [{"w": row} for row in rows]
    parent = {"w": [0.0, 0.0]}
    _, info = aggregation.aggregate("multi_krum", updates, None, parent, f=1, m=2, return_info=True)
    assert len(info.selected) == 2
    assert 4 not in info.selected
    assert info.scaling_factors == (0.5, 0.5)
    assert info.max_hostile == 1
    np.testing.assert_allclose(info.norms, np.linalg.norm(rows, axis=1), rtol=1e-9)
    apart = np.linalg.norm(np.array(rows)[:, None] - np.array(rows), axis=2)
    np.testing.assert_allclose(info.distances, apart, rtol=1e-9, atol=1e-9)
    result, info = aggregation.aggregate("weighted_mean", updates[:2], [3, 1], return_info=True)
    assert (info.selected, info.scaling_factors) == ((0, 1), (0.75, 0.25))
    assert (info.cosines, info.max_hostile) == (None, 0)
    assert info.norms == pytest.approx((0.05, 0.05))
    np.testing.assert_allclose(result["w"], [0.025, 0])


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("multi_krum", {"f": 2}),
        ("geometric_median", {}),
        ("spectral_filter", {"f": 2, "pre_aggregation": ["arc(f=2)", "nnm(f=2)"]}),
        ("centered_clipping", {"differences": True}),
        ("weighted_mean", {}),
        ("norm_clipped_mean", {"max_norm": 3.0}),
    ],
)
def test_the_info_has_the_cosines_of_all_updates(rule: str, options: dict[str, Any]) -> None:
    """Each cosine is that of the update's difference and the result's, whether it was selected or not."""
    rng = np.random.default_rng(3)
    parent = rng.normal(size=40)
    differences = rng.normal(0.3, 1, size=(9, 40))
    differences[4] = 0.0
    updates = differences if options.get("differences") else parent + differences
    result, info = aggregation.aggregate(
        rule, [[row] for row in updates], None, [parent], return_info=True, **options
    )
    made = result[0] - parent
    assert info.cosines[4] is None
    for row, cosine in zip(differences, info.cosines, strict=True):
        if row.any():
            expected = row @ made / np.linalg.norm(row) / np.linalg.norm(made)
            assert cosine == pytest.approx(expected, abs=1e-6)


def test_there_are_no_cosines_without_a_parent() -> None:
    """Without a parent there is no direction."""
    updates = np.random.default_rng(0).normal(size=(7, 1, 5))
    assert aggregation.aggregate("krum", updates, f=1, return_info=True)[1].cosines is None


def test_updates_that_are_close_to_each_other_keep_their_distances() -> None:
    """Updates a million times closer to each other than to the parent have their true distance."""
    rng = np.random.default_rng(5)
    updates = [[1e3 + 1e-4 * rng.normal(size=200)] for _ in range(3)]
    _, info = aggregation.aggregate(
        "weighted_mean", updates, None, [np.zeros(200)], return_info=True
    )
    expected = np.linalg.norm(updates[0][0] - updates[1][0])
    assert info.distances[0][1] == pytest.approx(expected, rel=1e-6)


def test_an_update_that_is_too_large_to_be_squared_is_infinitely_far() -> None:
    """A mean accepts it; its norm is infinite, the others are measured, and there are no cosines."""
    updates = [[np.array([value, 0.0])] for value in (1.0, 1e300, 3.0)]
    result, info = aggregation.aggregate(
        "weighted_mean", updates, None, [[0.0, 0.0]], return_info=True
    )
    assert result[0][0] == pytest.approx(1e300 / 3)
    assert info.norms == (1.0, np.inf, 3.0)
    assert info.distances[0] == (0.0, np.inf, 2.0)
    assert info.cosines is None


def test_the_info_prints_a_table() -> None:
    """The table has a line for each update, with its name, weight, norm, cosine and distances."""
    updates = [[np.array([value, 0.0])] for value in (1.0, 2.0, 40.0, 1.5, 1.2)]
    _, info = aggregation.aggregate("krum", updates, None, [[0.0, 0.0]], f=1, return_info=True)
    assert info.table(["a", "b", "c", "d", "e"]).splitlines() == [
        "update  used  weight  norm  cosine  nearest  median distance",
        "a         no       -     1       1      0.2             0.75",
        "b         no       -     2       1      0.5              0.9",
        "c         no       -    40       1       38            38.65",
        "d         no       -   1.5       1      0.3              0.5",
        "e        yes       1   1.2       1      0.2             0.55",
        "1 of 5 updates may be hostile",
    ]


def test_steps_come_before_the_rule() -> None:
    """``pre_aggregation`` mixes the updates that the rule combines; bucketing needs a seed."""
    updates = [[[0.0]], [[1.0]], [[2.0]], [[3.0]], [[90.0]]]
    found, info = aggregation.aggregate(
        "coordinate_median", updates, pre_aggregation=["nnm(f=2)"], return_info=True
    )
    assert found[0][0] == 2.0  # The rows are 1, 1, 2, 2 and 31.67.
    assert info.max_hostile == 2
    options: dict[str, Any] = {"pre_aggregation": ["bucketing(s=2)"]}
    first = aggregation.aggregate("coordinate_median", updates, seed="5eed", **options)
    again = aggregation.aggregate("coordinate_median", updates, seed="5eed", **options)
    np.testing.assert_array_equal(first, again)
    with pytest.raises(RuleError, match="needs a secret seed"):
        aggregation.aggregate("coordinate_median", updates, **options)


@pytest.mark.parametrize(("rule", "arguments"), [("weighted_mean", {}), ("krum", {"f": 1})])
def test_progress_is_reported_from_0_to_1(rule: str, arguments: dict[str, Any]) -> None:
    """The reported share grows from chunk to chunk and ends with 1, once."""
    shares: list[float] = []
    updates = [{"w": np.full(100_000, float(value))} for value in range(5)]
    resources = Resources(memory_bytes=1 << 20)
    aggregation.aggregate(rule, updates, resources=resources, progress=shares.append, **arguments)
    assert len(shares) > 3
    assert shares == sorted(set(shares))
    assert shares[0] > 0
    assert shares[-1] == 1


def test_aggregate_is_listed() -> None:
    """`dir` lists the names that are imported on first use."""
    assert {"aggregate", "AggregationInfo", "AggregationError"} <= set(dir(aggregation))


def test_a_server_optimizer_continues_from_the_state_of_the_call_before() -> None:
    """Two calls, the second with the state of the first, give the steps of the paper's algorithm."""
    start = {"w": np.zeros((2, 3)), "b": np.zeros(3)}
    parent: Any = start
    state: Any = None
    for value in (1.0, -2.0):
        update = {name: np.full_like(array, value) for name, array in start.items()}
        parent, info = aggregation.aggregate(
            "weighted_mean",
            [update],
            parent=parent,
            server_optimizer="fedadam",
            optimizer_args={"eta": 0.5},
            optimizer_state=state,
            return_info=True,
        )
        state = info.optimizer_state
    expected = trajectory("fedadam", np.zeros(1), [np.ones(1), np.full(1, -2.0)], {"eta": 0.5})
    np.testing.assert_allclose(parent["w"], np.full((2, 3), expected[-1][0]), rtol=1e-12)
    assert {name: array.shape for name, array in state.items()} == {"w": (2, 3, 2), "b": (3, 2)}


def test_without_a_server_optimizer_there_is_no_state() -> None:
    """An optimizer without a state returns none, nor does an optimizer without a parent."""
    cases: list[dict[str, Any]] = [{}, {"server_optimizer": "sgd"}, {"server_optimizer": "fedadam"}]
    for options in cases:
        _, info = aggregation.aggregate(
            "weighted_mean", [{"w": np.ones(2)}], return_info=True, **options
        )
        assert info.optimizer_state is None


def test_a_state_that_does_not_fit_the_parent_is_refused() -> None:
    """The message names the tensor, its shape and the one that was expected."""
    with pytest.raises(InvalidWeights, match=r"'w' is F64 \[2\], expected F64 \[2, 2\]"):
        aggregation.aggregate(
            "weighted_mean",
            [{"w": np.ones(2)}],
            parent={"w": np.ones(2)},
            server_optimizer="fedadam",
            optimizer_state={"w": np.ones(2)},
        )
