"""int8: what the reader makes of compressed updates, against plain numpy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.formats import Spool, open_weights, peek_layout
from aggregation.formats.int8 import BLOCK, SCALES, dequantize, is_quantized, quantize
from aggregation.layout import BFLOAT16, Tensor, TensorLayout
from aggregation.sources import BytesSource
from aggregation.weights import Weights, read_tensors
from tests.aggregation.formats.compressed_updates import (
    compressed,
    decompressed,
    plain_dequantize,
    plain_quantize,
    written,
)
from tests.aggregation.formats.samples import Array, CountingSource, assert_same, flattened

F4 = np.dtype("<f4")

#: One layout with large and small tensors, of all kinds of dtypes.
MODEL = TensorLayout(
    (
        Tensor("conv", F4, (3, 5, 700)),
        Tensor("count", np.dtype("<i8"), ()),
        Tensor("bias", F4, (3,)),
        Tensor("half", np.dtype("<f2"), (2 * BLOCK,)),
        Tensor("empty", F4, (0, 3)),
        Tensor("brain", BFLOAT16, (BLOCK + 1,)),
        Tensor("bytes", np.dtype("i1"), (5,)),
        Tensor("double", np.dtype("<f8"), (BLOCK - 1,)),
    )
)


def values_for(layout: TensorLayout, seed: int) -> dict[str, Array]:
    """Return random tensors, whose blocks differ in magnitude."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for tensor in layout.tensors:
        if is_quantized(tensor.dtype):
            magnitudes = 10.0 ** rng.integers(-3, 3, tensor.shape)
            arrays[tensor.name] = (rng.normal(size=tensor.shape) * magnitudes).astype(tensor.dtype)
        else:
            arrays[tensor.name] = rng.integers(-9, 9, tensor.shape).astype(tensor.dtype)
    return arrays


def opened(data: bytes, layout: TensorLayout | None = MODEL) -> Weights:
    """Open an update that may be compressed."""
    with Spool() as spool:
        return open_weights(
            BytesSource(data), "safetensors", expected_layout=layout, spool=spool, compressed=True
        )


@pytest.mark.parametrize("size", [0, 1, 127, BLOCK, BLOCK + 1, 40 * BLOCK + 5])
@pytest.mark.parametrize("dtype", [F4, np.dtype("<f2"), BFLOAT16, np.dtype("<f8")])
def test_a_tensor_is_quantized_as_by_plain_numpy(size: int, dtype: np.dtype[Any]) -> None:
    """The numbers, scales and elements are those of the definition, and the error is half a step."""
    values = values_for(TensorLayout((Tensor("x", dtype, (size,)),)), size)["x"]
    numbers, scales = quantize(values)
    expected_numbers, expected_scales = plain_quantize(values)
    np.testing.assert_array_equal(numbers, expected_numbers)
    np.testing.assert_array_equal(scales, expected_scales)
    found = dequantize(numbers, scales, dtype)
    np.testing.assert_array_equal(found, plain_dequantize(numbers, scales, dtype))
    step = np.repeat(scales.astype(np.float64), BLOCK)[:size]
    error = np.abs(found.astype(np.float64) - values.astype(np.float64))
    rounding = np.abs(values.astype(np.float64)) * (2.0**-8 if dtype == BFLOAT16 else 2.0**-10)
    assert (error <= step * 0.5001 + rounding).all()


def test_the_smallest_and_largest_numbers_are_quantized() -> None:
    """Zeros, denormal and huge numbers stay finite and keep their sign."""
    for value in (0.0, 1e-45, -1e-44, 1e-38, 3e38):
        values = np.array([value, -value], np.float32)
        found = dequantize(*quantize(values), F4)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, values, rtol=1e-6, atol=2e-43)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.permutations([t.name for t in MODEL.tensors]), st.data())
def test_any_range_of_an_update_is_that_of_the_whole(
    seed: int, order: list[str], data: st.DataObject
) -> None:
    """Every range of elements is what plain numpy computes, whichever order the object holds them in."""
    arrays = values_for(MODEL, seed)
    weights = opened(compressed(arrays, order))
    expected = flattened(decompressed(arrays).values())
    cuts = data.draw(st.lists(st.integers(0, MODEL.size), max_size=5))
    found = bytearray(MODEL.nbytes)
    edges = [MODEL.bytes_before(cut) for cut in sorted({0, *cuts, MODEL.size})]
    for start, stop in pairwise(edges):
        weights.read_into(MODEL, start, memoryview(found)[start:stop])
    assert bytes(found) == expected
    assert_same(read_tensors(weights.in_order(MODEL)), decompressed(arrays))


def test_a_range_takes_two_reads_and_a_quarter_of_the_bytes() -> None:
    """A range of a float32 model is one range of numbers and one of scales: at most 0.27 of its bytes."""
    arrays = {f"layer{n}": np.ones((300, 300), np.float32) for n in range(10)}
    layout = TensorLayout(tuple(Tensor(n, F4, a.shape) for n, a in arrays.items()))
    source = CountingSource(BytesSource(compressed(arrays, list(arrays))))
    with Spool() as spool:
        weights = open_weights(
            source, "safetensors", expected_layout=layout, spool=spool, compressed=True
        )
    source.reads = source.bytes_read = 0
    buffer = bytearray(layout.nbytes)
    weights.read_into(layout, 0, memoryview(buffer))
    assert source.reads <= 2
    assert source.bytes_read <= 0.27 * layout.nbytes
    assert source.bytes_read == weights.nbytes


def test_layers_without_names_are_read_in_their_order() -> None:
    """Layers are ordered by their numbers, though the scales are in the order of the bytes."""
    arrays = {f"arr_{n}": np.full(2 * BLOCK, n, np.float32) for n in range(11)}
    layout = TensorLayout(tuple(Tensor(n, F4, a.shape) for n, a in arrays.items()))
    found = read_tensors(opened(compressed(arrays, sorted(arrays)), layout))
    assert list(found) == list(arrays)
    assert all((found[name] == np.float32(n)).all() for n, name in enumerate(arrays))


def test_a_tensor_that_may_be_missing_is_zero() -> None:
    """An excluded tensor that the update lacks is read as zeros."""
    arrays = values_for(MODEL, 1)
    expected = TensorLayout(MODEL.tensors, frozenset({"half"}))
    order = [tensor.name for tensor in MODEL.tensors if tensor.name != "half"]
    weights = opened(compressed(arrays, order), expected).in_order(expected)
    found = bytearray(MODEL.nbytes)
    weights.read_into(expected, 0, memoryview(found))
    start, stop = (MODEL.bytes_before(MODEL.starts[n]) for n in (3, 4))
    assert not any(found[start:stop])
    assert any(found[:start])
    assert any(found[stop:])


def test_without_the_model_the_elements_are_float32() -> None:
    """If the model's layout is not known, I8 tensors are read as F32."""
    data = compressed({"w": np.ones((2, 3), np.float32)}, ["w"])
    layout = peek_layout(BytesSource(data), "safetensors", compressed=True)
    assert layout.tensors == (Tensor("w", F4, (2, 3)),)


SMALL = TensorLayout((Tensor("w", F4, (2, 3)),))
NUMBERS = np.ones((2, 3), np.int8)
ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({"w": NUMBERS}, "there is no tensor '__scales__'"),
        (
            {"w": NUMBERS, SCALES: np.ones(2, np.float32)},
            "has 2 scales, and the tensors have 1 blocks",
        ),
        ({"w": NUMBERS, SCALES: np.ones(0, np.float32)}, "has 0 scales"),
        ({"w": NUMBERS, SCALES: np.ones((1, 1), np.float32)}, "expected F32 of one dimension"),
        ({"w": NUMBERS, SCALES: np.ones(1, np.float64)}, "expected F32 of one dimension"),
        ({"w": NUMBERS.astype(np.float32), SCALES: ONE}, "tensor 'w' is F32 .* expected I8"),
        (
            {"w": NUMBERS[:1], SCALES: ONE},
            r"tensor 'w' is F32 \[1, 3\], the model's is F32 \[2, 3\]",
        ),
        ({"w": NUMBERS, "v": NUMBERS, SCALES: ONE}, "tensor 'v' .* is not in the model"),
        ({SCALES: np.ones(0, np.float32)}, "tensor 'w' .* is missing"),
    ],
)
def test_a_header_that_does_not_fit_is_rejected_at_intake(
    stored: dict[str, Array], reason: str
) -> None:
    """A layout that is not the model's and scales that do not fit it are rejected from the header."""
    source = BytesSource(written(stored))
    with pytest.raises(UpdateRejected, match=reason):
        peek_layout(source, "safetensors", expected_layout=SMALL, compressed=True)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0])
def test_a_bad_scale_is_rejected_with_its_place(scale: float) -> None:
    """The round rejects a scale that is not finite or negative, and names the tensor and the place."""
    arrays = values_for(MODEL, 2)
    data = bytearray(compressed(arrays, [tensor.name for tensor in MODEL.tensors]))
    blocks_before = 3 + 1  # of conv and bias
    scales = sum(-(-t.size // BLOCK) for t in MODEL.tensors if is_quantized(t.dtype))
    place = len(data) - 4 * (scales - blocks_before - 1)
    data[place : place + 4] = np.float32(scale).tobytes()
    weights = opened(bytes(data))
    half = MODEL.bytes_before(MODEL.starts[3])
    weights.read_into(MODEL, 0, memoryview(bytearray(half)))  # What comes before can be read.
    with pytest.raises(
        UpdateRejected, match=rf"scale .* tensor 'half' at \[{BLOCK}\] on is .*{scale}"
    ):
        weights.read_into(MODEL, 0, memoryview(bytearray(MODEL.nbytes)))


def test_only_updates_that_are_differences_may_be_compressed() -> None:
    """Compressed weights are rejected with the reason, by intake and by the reader."""
    source = BytesSource(written({"w": NUMBERS, SCALES: ONE}))
    reason = "only updates that are differences may be compressed"
    with pytest.raises(UpdateRejected, match=reason):
        peek_layout(source, "safetensors", expected_layout=SMALL)
    with Spool() as spool, pytest.raises(UpdateRejected, match=reason):
        open_weights(source, "safetensors", expected_layout=SMALL, spool=spool)


def test_a_model_with_a_tensor_of_that_name_takes_no_compressed_updates() -> None:
    """The name of the scales is never ambiguous."""
    layout = TensorLayout((*SMALL.tensors, Tensor(SCALES, F4, (1,))))
    with pytest.raises(UpdateRejected, match="send the update uncompressed"):
        opened(written({"w": NUMBERS, SCALES: ONE}), layout)
    plain = safetensors.numpy.save({"w": NUMBERS.astype("f4"), SCALES: ONE})
    assert read_tensors(opened(plain, layout))[SCALES] == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"note": "compression", "int8": "int8"},
        {'a "compression': "int8"},
        {"note": '"compression":"int8"'},
        {"compression": "gzip"},
    ],
)
def test_other_free_text_is_no_compression(metadata: dict[str, str]) -> None:
    """Only the entry of that name, with a known value, says that an object is compressed."""
    data = written({"w": np.ones((2, 3), np.float32)}, metadata)
    assert (read_tensors(opened(data, SMALL))["w"] == 1).all()
