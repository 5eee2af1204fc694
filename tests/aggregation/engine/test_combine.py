"""The chunk engine: the same bytes however the work is cut, and bad values kept out."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregation.engine
import aggregation.engine.ranges
from aggregation.engine import Resources, combine
from aggregation.engine.output import FileSink, MemorySink
from aggregation.errors import InvalidWeights, OutOfTime, UpdatesRejected
from aggregation.formats import Spool, open_weights
from aggregation.sources import FileSource
from tests.aggregation.engine.engine_tools import bytes_of, opened, result_of, run, vectors, work_of

RULES: list[tuple[str, dict[str, Any]]] = [
    ("weighted_mean", {}),
    ("coordinate_median", {}),
    ("trimmed_mean", {"beta": 0.2}),
    ("krum", {"f": 1}),
    ("bulyan", {"f": 1}),
    ("geometric_median", {}),
    ("centered_clipping", {"tau": 3.0}),
]

every_rule = pytest.mark.parametrize(("name", "arguments"), RULES, ids=[name for name, _ in RULES])


def mixed_models(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Models of several dtypes, with a scalar and a tensor of no elements, of some 20 000 elements."""
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


@every_rule
@given(
    memory=st.integers(8_000, 3_000_000),
    readers=st.integers(1, 5),
    workers=st.integers(1, 4),
)
@settings(max_examples=8, deadline=None)
def test_resources_change_nothing_of_the_result(
    name: str, arguments: dict[str, Any], memory: int, readers: int, workers: int
) -> None:
    """Memory, chunk size, readers and workers do not change a single bit."""
    updates = mixed_models(8)
    work = work_of(name, updates[:7], list(range(1, 8)), updates[7], **arguments)
    resources = Resources(memory_bytes=memory, readers=readers, workers=workers)
    assert bytes_of(work, resources) == bytes_of(work)


class Stopped(Exception):
    """The process is gone."""


def state_of(checkpoint: Any) -> Any:
    """Of the sink, where some of the result was stored."""
    return checkpoint["progress"]["sink"] if checkpoint and checkpoint["progress"] else None


@every_rule
def test_a_result_that_is_gone_on_with_has_the_same_bytes(
    name: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after any part that was measured or stored, and gone on with from what was kept, the result
    is the same."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 20_000)
    updates = mixed_models(8)
    work = work_of(name, updates[:7], list(range(1, 8)), updates[7], **arguments)
    expected, _ = run(work)
    parts = len(aggregation.engine.ranges.part_ends(work.layout))
    passes = 1 + (work.rule.needs_gram or work.rule.needs_norms)
    resources = Resources(memory_bytes=250_000)
    assert parts > 5
    for stop_after in range(1, passes * (parts - 1)):
        kept: list[Any] = []

        def keep(checkpoint: Any, kept: list[Any] = kept, last: int = stop_after) -> None:
            kept.append(json.loads(json.dumps(checkpoint)))
            if len(kept) == last:
                raise Stopped

        path = tmp_path / f"{name}-{stop_after}.safetensors"
        with pytest.raises(Stopped):
            combine(
                work, FileSink(path), format="safetensors", resources=resources, checkpoint=keep
            )
        assert not path.exists()
        combine(work, FileSink(path, state_of(kept[-1])), format="safetensors", resume=kept[-1])
        assert path.read_bytes() == expected


@pytest.mark.parametrize("format", ["safetensors", "npz", "json"])
def test_out_of_time_keeps_every_finished_part(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to stop at every chunk, the work still ends, and with the same bytes, in any format."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 30_000)
    work = work_of("weighted_mean", mixed_models(3))
    whole = MemorySink()
    combine(work, whole, format=format)
    resume, attempts = None, 0
    resources = Resources(memory_bytes=100_000)
    path = tmp_path / f"result.{format}"
    while True:
        attempts += 1
        kept: list[Any] = []
        try:
            combine(
                work,
                FileSink(path, state_of(resume)),
                format=format,
                resources=resources,
                resume=resume,
                checkpoint=kept.append,
                out_of_time=lambda kept=kept: bool(kept),
            )
            break
        except OutOfTime:
            resume = json.loads(json.dumps(kept[-1]))
    assert attempts >= 3
    assert path.read_bytes() == whole.data


def bunched(n: int) -> list[dict[str, Any]]:
    """Updates so close to each other that their distances have to be measured anew, from among them."""
    rng = np.random.default_rng(0)
    return [{"w": (1 + 1e-5 * rng.normal(size=9000)).astype(np.float32)} for _ in range(n)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("krum", {"f": 1}), ("norm_filtered_mean", {}), ("centered_clipping", {"tau": 3.0})],
)
@pytest.mark.parametrize("updates", [mixed_models(7), bunched(7)], ids=["scattered", "bunched"])
def test_a_pass_that_only_measures_need_not_end_in_one_go(
    name: str, arguments: dict[str, Any], updates: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped again and again while the updates are measured, once or twice, it comes to the very same
    selection and norms."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 4_000)
    parent = {key: np.zeros_like(tensor) for key, tensor in updates[0].items()}
    work = work_of(name, updates, list(range(1, 8)), parent, **arguments)
    _, whole = run(work)
    resume: Any = None
    attempts = 0
    while not (resume and resume["progress"]):
        attempts += 1
        kept: list[Any] = []
        with pytest.raises(OutOfTime):
            run(
                work,
                Resources(memory_bytes=200_000),
                resume=resume,
                checkpoint=kept.append,
                out_of_time=lambda kept=kept: bool(kept),
            )
        resume = json.loads(json.dumps(kept[-1]))
    assert attempts > 4
    assert resume["selection"] == json.loads(json.dumps(whole.selection.to_json()))
    assert resume["norms"] == whole.norms


def test_measuring_that_is_stopped_names_what_is_bad_so_far() -> None:
    """Out of time with bad values found, it says so: else a long round would find them anew for ever."""
    updates = [*bunched(4), {"w": np.full(9000, np.nan, np.float32)}]
    for name, arguments in (("krum", {"f": 1}), ("weighted_mean", {})):
        with pytest.raises(UpdatesRejected) as rejected:
            run(
                work_of(name, updates, **arguments),
                Resources(memory_bytes=40_000),
                out_of_time=lambda: True,
            )
        assert rejected.value.reasons == {4: "nan in tensor 'w' at [0]"}


def test_parts_are_not_small_where_integers_are_short_as_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Object stores refuse small parts. As JSON an int64 may be two characters: then parts are joined
    until they are half as large as those of the model, all but the last."""
    monkeypatch.setattr(aggregation.engine.ranges, "PART_BYTES", 8_000)
    sizes: list[int] = []

    class CountingSink(MemorySink):
        def write_part(self, number: int, data: bytes | bytearray, *, last: bool = False) -> None:
            super().write_part(number, data, last=last)
            sizes.append(len(data))

    values = np.zeros(9_500, np.int64)
    sink = CountingSink()
    combine(work_of("weighted_mean", [{"w": values}]), sink, format="json")
    assert len(sizes) == 5
    assert min(sizes[:-1]) >= 4_000
    assert json.loads(sink.data) == [values.tolist()]


def test_each_dtype_is_averaged_in_float64_and_rounded_once() -> None:
    """The stored result is the float64 mean, rounded to the tensor's dtype; integers to nearest."""
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
    """A bfloat16 mean is a bfloat16 closest to the float64 mean."""
    stored = [np.array([value], ml_dtypes.bfloat16) for value in values]
    # The library's loader for numpy does not know the dtype.
    stored_result = bytes_of(work_of("unweighted_mean", [{"w": value} for value in stored]))
    result = np.frombuffer(stored_result[-2:], ml_dtypes.bfloat16)
    mean = np.mean([value.astype(np.float64)[0] for value in stored])
    neighbours = np.array([int(result.view(np.uint16)[0]) + i for i in (-1, 0, 1)], np.uint16)
    distance = np.abs(neighbours.view(ml_dtypes.bfloat16).astype(np.float64) - mean)
    assert distance[1] == np.nanmin(distance)


def test_the_largest_integers_survive() -> None:
    """Integers at the ends of their range stay there: float64 has no 2**63 - 1."""
    ends = {"w": np.array([2**63 - 1, -(2**63)], np.int64), "u": np.array([2**64 - 1], np.uint64)}
    result = result_of("unweighted_mean", [ends, ends])
    np.testing.assert_array_equal(result["w"], ends["w"])
    np.testing.assert_array_equal(result["u"], ends["u"])


def test_names_may_come_in_any_order() -> None:
    """Updates whose tensors lie in another order are matched by name, and the model's order is kept."""
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
    """safetensors in the order given; the library's own writer sorts by name."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        offsets = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_differences_are_added_to_the_parent() -> None:
    """Updates that are differences give the parent plus their mean."""
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
    """Values that are not finite are found in one go, wherever they are and however the work was cut;
    told is the tensor and the place of each update's first."""
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
    """After Krum has chosen, one update is read, not all: what it costs follows from what it selects."""
    updates = mixed_models(7)
    work = work_of("krum", updates, f=1)
    _, combined = run(work)
    assert combined.bytes_read == 8 * work.layout.nbytes


def test_a_value_that_makes_the_result_overflow_is_blamed() -> None:
    """A finite value so large that the mean overflows keeps out the update that brought it."""
    rows = np.ones((3, 4))
    rows[1, 2] = 1.7e308
    with pytest.raises(UpdatesRejected) as caught:
        result_of("weighted_mean", vectors(rows, np.float64), [1, 1000, 1])
    assert list(caught.value.reasons) == [1]
    assert "overflow" in caught.value.reasons[1]


def test_a_float16_difference_that_overflows_the_model_is_blamed() -> None:
    """Where parent plus difference leaves the model's dtype, the update that pushed it is named."""
    parent = {"w": np.full(3, 60_000, np.float16)}
    updates = vectors([[1, 1, 1], [1, 60_000, 1]], np.float16)
    with pytest.raises(UpdatesRejected) as caught:
        result_of("unweighted_mean", updates, None, parent, differences=True)
    assert list(caught.value.reasons) == [1]


@pytest.mark.parametrize("name", ["weighted_mean", "krum"])
def test_a_file_that_shrinks_while_it_is_read_is_rejected(name: str, tmp_path: Path) -> None:
    """A truncated or replaced file rejects its own update; the others are read to the end."""
    arguments = {"f": 1} if name == "krum" else {}
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


def test_a_model_without_elements_is_a_model() -> None:
    """Tensors of zero elements, and nothing else, make a result that its library can load."""
    empty = {"w": np.zeros((0, 3), np.float32)}
    for name, arguments in (("weighted_mean", {}), ("krum", {"f": 0}), ("coordinate_median", {})):
        assert result_of(name, [empty] * 3, **arguments)["w"].shape == (0, 3)


def test_few_gram_matrices_are_in_memory_at_once() -> None:
    """Of four hundred updates a matrix of all pairs takes 1.28 MB: a handful of them is alive, not one
    for each cell of 1024 elements."""
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
    """With less memory than one element of each update takes, the work is done all the same."""
    updates = mixed_models(20)
    work = work_of("coordinate_median", updates)
    assert bytes_of(work, Resources(memory_bytes=1)) == bytes_of(work)


def test_norms_are_those_of_the_differences_from_the_parent() -> None:
    """The norms that a rule had measured are told for each update."""
    rows = np.array([[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]])
    work = work_of("norm_filtered_mean", vectors(rows), None, {"w": np.zeros(2, np.float32)})
    _, combined = run(work)
    np.testing.assert_allclose(combined.norms, [5, 10, 1])  # type: ignore[arg-type]


def test_formats_may_be_mixed(tmp_path: Path) -> None:
    """safetensors, npz and JSON of the same numbered layers go into one round."""
    import io

    tensors = {
        "arr_0": np.arange(6, dtype=np.float32).reshape(2, 3),
        "arr_1": np.ones(2, np.float32),
    }
    archive = io.BytesIO()
    np.savez_compressed(archive, **{name: tensor * 2 for name, tensor in tensors.items()})
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
