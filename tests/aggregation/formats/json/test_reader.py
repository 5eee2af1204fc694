"""The JSON format, against Python's own `json`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregation.errors import AggregationError, UpdateRejected
from aggregation.formats import Spool, encoder_for, open_weights, peek_layout
from aggregation.formats.json import parser, reader
from aggregation.formats.limits import TRUSTED, Limits
from aggregation.layout import BFLOAT16, Tensor, TensorLayout, layer_name
from aggregation.sources import BytesSource
from tests.aggregation.formats.samples import (
    Array,
    CountingSource,
    assert_same,
    decode,
    dtypes,
    encode,
    layouts,
    values_of,
)

F32 = np.dtype("<f4")


def positional(*arrays: Array) -> TensorLayout:
    """Return the layout of layers without names."""
    return TensorLayout.of_layers([Tensor("", array.dtype, array.shape) for array in arrays])


@given(layouts(named=False), st.integers(0, 2**32))
def test_python_reads_the_same_values(layout: TensorLayout, seed: int) -> None:
    """`json.load` gives nested lists that make the same arrays, to the bit."""
    arrays = values_of(layout, seed, finite=True)
    loaded = json.loads(encode("json", layout, arrays))
    assert len(loaded) == len(arrays)
    for layer, array in zip(loaded, arrays, strict=True):
        found = np.array(layer, array.dtype).reshape(array.shape)
        assert found.tobytes() == array.tobytes()


@given(layouts(named=False), st.integers(0, 2**32))
def test_what_is_written_is_read_back(layout: TensorLayout, seed: int) -> None:
    """With the model's layout, its own text has the same dtypes, shapes and bits."""
    arrays = values_of(layout, seed, finite=True)
    found, tensors = decode(encode("json", layout, arrays), "json", expected_layout=layout)
    assert found == layout
    assert_same(tensors, {t.name: a for t, a in zip(layout.tensors, arrays, strict=True)})


nested_lists = st.recursive(
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(nested_lists, max_size=4), st.sampled_from([None, 1, "\t \n"]), st.integers(1, 9))
@example([[[], [1]]], None, 1)
@example([[[1], []]], None, 1)
@example([[[], [[]]]], None, 1)
@example([[1, []]], None, 1)
@example([[[], 1]], None, 1)
def test_what_numpy_takes_for_an_array_is_read(
    layers: list[Any], indent: int | str | None, block_bytes: int
) -> None:
    """Layers are read if and only if numpy makes a regular array of each, in whatever pieces."""
    text = json.dumps(layers, indent=indent).encode()
    try:
        expected = [np.array(layer, np.float64) for layer in layers]
    except ValueError:
        expected = None
    with pytest.MonkeyPatch.context() as patch:
        for module in (parser, reader):
            patch.setattr(module, "BLOCK_BYTES", block_bytes)
        if expected is None:
            with pytest.raises(UpdateRejected, match="ragged"):
                decode(text, "json")
        else:
            assert_same(decode(text, "json")[1], {layer_name(n): a for n, a in enumerate(expected)})


@given(st.text("[],.-+0123456789eE \n", max_size=30), st.integers(1, 9))
@example("[1,,2]", 1)
@example("[,]", 1)
@example("[[1]2]", 1)
def test_only_json_is_read(text: str, block_bytes: int) -> None:
    """Text of the right characters is read if and only if it is JSON, and regular."""
    try:
        layers = json.loads(text)
        arrays = [np.array(layer, np.float64) for layer in layers]
        is_good = all(np.isfinite(array).all() for array in arrays)
    except (ValueError, TypeError):
        is_good = False
    with pytest.MonkeyPatch.context() as patch:
        for module in (parser, reader):
            patch.setattr(module, "BLOCK_BYTES", block_bytes)
        try:
            peek_layout(BytesSource(text.encode()), "json")
            was_read = True
        except UpdateRejected:
            was_read = False
    assert was_read == is_good


def test_without_a_model_numbers_are_float64() -> None:
    """Text has no dtypes; alone it is read in double precision."""
    layout, tensors = decode(b"[[0.1, 2], 3]", "json")
    assert layout.is_numbered
    assert_same(tensors, {"arr_0": np.array([0.1, 2]), "arr_1": np.array(3.0)})


def test_a_model_gives_its_dtypes() -> None:
    """Layers take the dtypes of the model's layers of the same number."""
    model = positional(np.zeros(2, F32), np.zeros((), "i8"))
    _, tensors = decode(f"[[0.1, 2], {2**62 + 1}]".encode(), "json", expected_layout=model)
    assert_same(tensors, {"arr_0": np.array([0.1, 2], F32), "arr_1": np.array(2**62 + 1)})


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        ("<f2", "65520"),
        ("<f4", "3.5e38"),
        ("<f8", "1e309"),
        ("<f8", "9" * 400),
        ("i1", "128"),
        ("u1", "-1"),
        ("<i8", str(2**63)),
        ("<i4", "1.5"),
        ("<i4", "1e3"),
    ],
)
def test_numbers_that_do_not_fit_are_rejected(dtype: str, number: str) -> None:
    """A number that the dtype cannot hold is not made infinite, wrapped or cut."""
    model = positional(np.zeros(1, dtype))
    with pytest.raises(UpdateRejected, match=r"out of range|a fraction"):
        decode(f"[[{number}]]".encode(), "json", expected_layout=model)


def test_bfloat16_overflow_is_rejected() -> None:
    """A number beyond bfloat16's range, which is nearly that of float32, is rejected."""
    model = positional(np.zeros(1, BFLOAT16))
    assert decode(b"[[3e38]]", "json", expected_layout=model)[1]["arr_0"].dtype == BFLOAT16
    with pytest.raises(UpdateRejected, match="out of range of BF16"):
        decode(b"[[3.4e38]]", "json", expected_layout=model)


def test_a_shape_behind_a_zero_is_the_models() -> None:
    """Of shape (2, 0, 3) text keeps (2, 0); the model knows the rest."""
    model = positional(np.zeros((2, 0, 3), F32))
    assert decode(b"[[[],[]]]", "json", expected_layout=model)[0] == model
    with pytest.raises(UpdateRejected, match=r"is F32 \[3, 0\]"):
        decode(b"[[[],[],[]]]", "json", expected_layout=model)


@pytest.mark.parametrize(
    ("text", "reason"), [(b"[1]", "'arr_1'.*is missing"), (b"[1,2,3]", "more than 2")]
)
def test_other_numbers_of_layers_are_rejected(text: bytes, reason: str) -> None:
    """Too few layers, and too many, are rejected."""
    model = positional(np.array(1.0), np.array(2.0))
    with pytest.raises(UpdateRejected, match=reason):
        decode(text, "json", expected_layout=model)


@pytest.mark.parametrize("expected_layout", [None, positional(np.zeros(3))])
def test_long_text_of_a_client_is_rejected_unread(
    monkeypatch: pytest.MonkeyPatch, expected_layout: TensorLayout | None
) -> None:
    """The limit is checked before a byte is read; our own objects have none."""
    monkeypatch.setattr(
        "aggregation.formats.limits_for",
        lambda layout, trusted: TRUSTED if trusted else Limits(json_bytes=10),
    )
    source = CountingSource(BytesSource(b"[[1, 2, 3]]"))
    with Spool() as spool:
        for given in (spool, None):
            with pytest.raises(UpdateRejected, match="of 11 bytes, at most 10"):
                open_weights(source, "json", expected_layout=expected_layout, spool=given)
        with pytest.raises(UpdateRejected, match="of 11 bytes, at most 10"):
            peek_layout(source, "json", expected_layout=expected_layout)
        assert source.reads == 0
        weights = open_weights(
            source, "json", expected_layout=expected_layout, spool=spool, trusted=True
        )
    assert (
        peek_layout(source, "json", expected_layout=expected_layout, trusted=True) == weights.layout
    )


def test_text_longer_than_its_model_takes_no_more_disk_than_the_model() -> None:
    """Numbers beyond those of the model are not unpacked."""
    text = json.dumps([[1.0] * 100_000]).encode()
    with Spool() as spool, pytest.raises(UpdateRejected, match="more numbers than the model"):
        open_weights(
            BytesSource(text), "json", expected_layout=positional(np.zeros(3)), spool=spool
        )


def test_float32_has_its_own_shortest_digits() -> None:
    """A float32 is not written with the digits of the float64 it equals."""
    assert encode("json", positional(np.array([0.1], F32)), [np.array([0.1], F32)]) == b"[[0.1]]"


def test_the_one_float32_that_shortest_digits_miss() -> None:
    """The shortest digits of one float32, 7.038531e-26, are read by Python as another one."""
    value = np.array([0x15AE43FD, 0x95AE43FD], "<u4").view(F32)
    assert np.array(float(str(value[0])), F32) != value[0]
    text = encode("json", positional(value), [value])
    assert np.array(json.loads(text)[0], F32).tobytes() == value.tobytes()


@given(dtypes)
def test_what_is_not_finite_is_not_written(dtype: np.dtype[Any]) -> None:
    """JSON has no infinity: the encoder raises an error instead of writing one."""
    if dtype.kind in "iub":
        return
    values = np.array([np.inf], dtype)
    encoder = encoder_for("json", positional(values))
    with pytest.raises(AggregationError, match="not finite"):
        list(encoder.encode(0, memoryview(values.tobytes())))
