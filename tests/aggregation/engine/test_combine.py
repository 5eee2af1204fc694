"""The chunk engine: the result does not depend on how the work is cut, and bad values are rejected."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregation.engine
import aggregation.engine.ranges
from aggregation.engine import Resources, combine
from aggregation.engine.output import MemorySink
from aggregation.engine.parts import PartData, pieces_of
from aggregation.errors import InvalidWeights, UpdatesRejected
from aggregation.formats import Spool, open_weights
from aggregation.policies import Policy, TensorPolicies
from aggregation.sources import FileSource
from tests.aggregation.engine.engine_models import (
    every_rule,
    mixed_models,
    policy_lists,
    with_policies,
)
from tests.aggregation.engine.engine_tools import bytes_of, opened, result_of, run, vectors, work_of


@every_rule
@given(
    memory=st.integers(8_000, 3_000_000),
    readers=st.integers(1, 5),
    workers=st.integers(1, 4),
    pairs=policy_lists,
    frozen=st.sampled_from([(), ("[ag]",)]),
)
@settings(max_examples=12, deadline=None)
def test_the_result_does_not_depend_on_resources(
    name: str,
    arguments: dict[str, Any],
    memory: int,
    readers: int,
    workers: int,
    pairs: list[tuple[str, Policy]],
    frozen: tuple[str, ...],
) -> None:
    """Memory, chunk size, readers and workers do not change a single bit, under any policies."""
    policies = TensorPolicies(tuple(pairs), frozen)
    updates = with_policies(mixed_models(8), policies)
    counts = list(range(1, 8))
    work = work_of(name, updates[:7], counts, updates[7], policies=policies, **arguments)
    resources = Resources(memory_bytes=memory, readers=readers, workers=workers)
    assert bytes_of(work, resources) == bytes_of(work)


def test_parts_of_short_text_are_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parts of JSON are joined until they have half the usual size, which object stores accept."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 8_000)
    sizes: list[int] = []

    class CountingSink(MemorySink):
        def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
            super().write_part(number, data, last=last)
            sizes.append(sum(map(len, pieces_of(data))))

    values = np.zeros(9_500, np.int64)
    sink = CountingSink()
    combine(work_of("weighted_mean", [{"w": values}]), sink, format="json")
    assert len(sizes) == 5
    assert min(sizes[:-1]) >= 4_000
    assert json.loads(sink.data) == [values.tolist()]


def test_each_dtype_is_averaged_in_float64_and_rounded_once() -> None:
    """The result is the float64 mean rounded to the dtype of the tensor, integers to the nearest."""
    updates = mixed_models(5)
    counts = [3, 1, 4, 1, 5]
    result = result_of("weighted_mean", updates, counts)
    for name, found in result.items():
        exact = np.average([u[name].astype(np.float64) for u in updates], axis=0, weights=counts)
        assert found.dtype == updates[0][name].dtype
        expected = np.rint(exact) if found.dtype.kind in "iu" else exact
        np.testing.assert_array_equal(found, np.asarray(expected).astype(found.dtype))


@given(st.lists(st.floats(1, 1e4), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_bfloat16_is_rounded_once(values: list[float]) -> None:
    """A bfloat16 mean is the bfloat16 value closest to the float64 mean."""
    stored = [np.array([value], ml_dtypes.bfloat16) for value in values]
    # The library's loader for numpy does not know the dtype.
    stored_result = bytes_of(work_of("unweighted_mean", [{"w": value} for value in stored]))
    result = np.frombuffer(stored_result[-2:], ml_dtypes.bfloat16)
    mean = np.mean([value.astype(np.float64)[0] for value in stored])
    neighbours = np.array([int(result.view(np.uint16)[0]) + i for i in (-1, 0, 1)], np.uint16)
    distance = np.abs(neighbours.view(ml_dtypes.bfloat16).astype(np.float64) - mean)
    assert distance[1] == np.nanmin(distance)


def test_the_largest_integers_survive() -> None:
    """Integers at the ends of their range keep their values, although float64 cannot hold 2**63 -
    1."""
    ends = {"w": np.array([2**63 - 1, -(2**63)], np.int64), "u": np.array([2**64 - 1], np.uint64)}
    result = result_of("unweighted_mean", [ends, ends])
    np.testing.assert_array_equal(result["w"], ends["w"])
    np.testing.assert_array_equal(result["u"], ends["u"])


def test_tensors_are_matched_by_name() -> None:
    """Updates may hold their tensors in any order; the result has the order of the model."""
    one = {
        "a": np.ones(5, np.float32),
        "b": np.full(3, 2, np.float32),
        "c": np.zeros(4, np.float32),
    }
    shuffled = _stored_in_order({"c": one["c"], "a": one["a"] * 3, "b": one["b"] * 3})
    result = result_of("unweighted_mean", [one, shuffled])
    np.testing.assert_array_equal(result["a"], np.full(5, 2, np.float32))
    np.testing.assert_array_equal(result["b"], np.full(3, 4, np.float32))


def _stored_in_order(tensors: dict[str, Any]) -> bytes:
    """Return a safetensors file with the tensors in this order; the library's writer sorts them."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        offsets = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_differences_are_added_to_the_parent() -> None:
    """The result for updates that are differences is the parent plus their mean."""
    parent = {"w": np.array([10, 20], np.float32)}
    result = result_of("unweighted_mean", vectors([[1, 2], [3, 4]]), None, parent, differences=True)
    np.testing.assert_array_equal(result["w"], [12, 23])


@every_rule
def test_differences_and_weights_agree(name: str, arguments: dict[str, Any]) -> None:
    """A rule gives the same model whether clients send weights or differences from the parent."""
    rng = np.random.default_rng(1)
    parent = rng.normal(size=50)
    steps = rng.normal(size=(9, 50))
    base = {"w": parent}
    weights = result_of(name, vectors(parent + steps, float), None, base, **arguments)["w"]
    differences = result_of(name, vectors(steps, float), None, base, differences=True, **arguments)[
        "w"
    ]
    np.testing.assert_allclose(weights, differences, rtol=1e-9, atol=1e-9)


@every_rule
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_every_poisoned_update_is_named_with_its_place(
    name: str, arguments: dict[str, Any], poison: float
) -> None:
    """One pass finds every update with a value that is not finite, and the place of its first such
    value."""
    updates = mixed_models(9)
    updates[2]["g"][99, 129] = poison
    updates[5]["a"][36, 100] = poison
    updates[5]["g"][0, 0] = poison
    work = work_of(name, updates[:8], None, updates[8], **arguments)
    for memory in (200_000, 20_000_000):
        with pytest.raises(UpdatesRejected) as caught:
            bytes_of(work, Resources(memory_bytes=memory))
        # safetensors puts the widest dtypes first.
        assert caught.value.reasons == {
            2: f"{poison} in tensor 'g' at [99, 129]",
            5: f"{poison} in tensor 'g' at [0, 0]",
        }


def test_only_members_are_read_again() -> None:
    """After Krum has selected, only the selected update is read again."""
    updates = mixed_models(7)
    work = work_of("krum", updates, f=1)
    _, combined = run(work)
    assert combined.bytes_read == 8 * work.layout.nbytes


def test_a_value_that_makes_the_result_overflow_is_blamed() -> None:
    """An update whose finite value makes the mean overflow is rejected."""
    rows = np.ones((3, 4))
    rows[1, 2] = 1.7e308
    with pytest.raises(UpdatesRejected) as caught:
        result_of("weighted_mean", vectors(rows, np.float64), [1, 1000, 1])
    assert list(caught.value.reasons) == [1]
    assert "overflow" in caught.value.reasons[1]


def test_a_float16_difference_that_overflows_the_model_is_blamed() -> None:
    """An update whose difference makes the sum with the parent overflow the dtype is rejected."""
    parent = {"w": np.full(3, 60_000, np.float16)}
    updates = vectors([[1, 1, 1], [1, 60_000, 1]], np.float16)
    with pytest.raises(UpdatesRejected) as caught:
        result_of("unweighted_mean", updates, None, parent, differences=True)
    assert list(caught.value.reasons) == [1]


@pytest.mark.parametrize("name", ["weighted_mean", "krum"])
def test_a_file_that_shrinks_while_it_is_read_is_rejected(name: str, tmp_path: Path) -> None:
    """A truncated or replaced file rejects its own update; the others are read to the end."""
    arguments: dict[str, Any] = {"f": 1} if name == "krum" else {}
    updates = mixed_models(6)
    work = work_of(name, updates, **arguments)
    paths = []
    for index in (1, 4):
        paths.append(tmp_path / f"{index}.safetensors")
        paths[-1].write_bytes(safetensors.numpy.save(updates[index]))
        weights = open_weights(FileSource(paths[-1]), "safetensors", spool=Spool())
        work.updates[index] = weights  # type: ignore[index]
    paths[0].write_bytes(paths[0].read_bytes()[:-1000])
    paths[1].write_bytes(paths[1].read_bytes())
    with pytest.raises(UpdatesRejected) as caught:
        bytes_of(work)
    assert set(caught.value.reasons) == {1, 4}
    assert "changed" in caught.value.reasons[1]


def test_a_parent_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """If the parent file changed, the round fails, and no update is blamed."""
    path = tmp_path / "parent.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(4, np.float32)}))
    parent = open_weights(FileSource(path), "safetensors", spool=Spool())
    path.write_bytes(path.read_bytes()[:-4])
    zero = {"w": np.zeros(4, np.float32)}
    work = work_of("norm_clipped_mean", vectors(np.eye(4)), None, zero, max_norm=1.0)
    object.__setattr__(work, "parent", parent)
    with pytest.raises(InvalidWeights, match="the parent cannot be read"):
        bytes_of(work)


def test_a_model_may_have_no_elements() -> None:
    """Tensors without elements, and nothing else, make a result that its library can load."""
    empty = {"w": np.zeros((0, 3), np.float32)}
    for name, arguments in (("weighted_mean", {}), ("krum", {"f": 0}), ("coordinate_median", {})):
        assert result_of(name, [empty] * 3, **arguments)["w"].shape == (0, 3)


def test_few_gram_matrices_are_in_memory_at_once() -> None:
    """For 400 updates, whose matrix takes 1.28 MB, memory holds a few matrices, not one for each
    cell."""
    n, cells = 400, 32
    updates = [{"w": row} for row in np.eye(n, cells * 1024, dtype=np.float32)]
    work = work_of("krum", updates, None, {"w": np.zeros(cells * 1024, np.float32)}, f=1)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        run(work, Resources(memory_bytes=160 << 20))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    block, centred = 4 * n * cells * 1024, 2 * 8 * n * 1024
    assert peak - before < block + centred + 8 * 8 * n**2


def test_a_tiny_budget_is_enough() -> None:
    """The result is the same with less memory than one element of each update takes."""
    updates = mixed_models(20)
    work = work_of("coordinate_median", updates)
    assert bytes_of(work, Resources(memory_bytes=1)) == bytes_of(work)


def test_norms_are_those_of_the_differences_from_the_parent() -> None:
    """The norms that a rule needs are returned for each update."""
    rows = np.array([[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]])
    work = work_of("norm_filtered_mean", vectors(rows), None, {"w": np.zeros(2, np.float32)})
    _, combined = run(work)
    np.testing.assert_allclose(combined.norms, [5, 10, 1])  # type: ignore[arg-type]


def test_formats_may_be_mixed(tmp_path: Path) -> None:
    """safetensors, npz and JSON files of the same numbered layers go into one round."""
    import io

    tensors = {
        "arr_0": np.arange(6, dtype=np.float32).reshape(2, 3),
        "arr_1": np.ones(2, np.float32),
    }
    archive = io.BytesIO()
    np.savez_compressed(
        archive, **cast("Any", {name: tensor * 2 for name, tensor in tensors.items()})
    )
    model = opened(safetensors.numpy.save(tensors))
    text = json.dumps([(tensor * 3).tolist() for tensor in tensors.values()]).encode()
    with Spool() as spool:
        from aggregation.sources import BytesSource

        expected_layout = model.layout
        work = work_of("unweighted_mean", [tensors] * 3)
        object.__setattr__(
            work,
            "updates",
            [
                model,
                open_weights(
                    BytesSource(archive.getvalue()),
                    "npz",
                    expected_layout=expected_layout,
                    spool=spool,
                ),
                open_weights(
                    BytesSource(text), "json", expected_layout=expected_layout, spool=spool
                ),
            ],
        )
        result = safetensors.numpy.load(bytes_of(work))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(result[name], tensor * 2)
