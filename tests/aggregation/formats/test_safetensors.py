"""The safetensors format, against its own library."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.formats import Spool, encoder_for, open_weights, peek_layout, read_metadata
from aggregation.formats.limits import Limits
from aggregation.formats.safetensors import open_safetensors
from aggregation.layout import DTYPE_NAMES, Tensor, TensorLayout
from aggregation.sources import BytesSource
from tests.aggregation.formats.samples import (
    CountingSource,
    assert_same,
    decode,
    encode,
    layouts,
    values_of,
)


@given(layouts(), st.integers(0, 2**32))
def test_the_library_reads_what_is_written(layout: TensorLayout, seed: int) -> None:
    """The library reads the tensors that were encoded."""
    arrays = values_of(layout, seed)
    data = encode("safetensors", layout, arrays)
    loaded = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    assert loaded.keys() == {tensor.name for tensor in layout.tensors}
    for tensor, array in zip(layout.tensors, arrays, strict=True):
        found = loaded[tensor.name]
        assert (found["dtype"], found["shape"]) == (DTYPE_NAMES[tensor.dtype], list(tensor.shape))
        assert bytes(found["data"]) == array.tobytes()


@given(layouts(), st.integers(0, 2**32))
def test_what_the_library_writes_is_read(layout: TensorLayout, seed: int) -> None:
    """Tensors that the library writes are read unchanged."""
    arrays = values_of(layout, seed)
    expected = {t.name: array for t, array in zip(layout.tensors, arrays, strict=True)}
    found, tensors = decode(safetensors.numpy.save(expected), "safetensors")
    assert {t.name: t for t in found.tensors} == {t.name: t for t in layout.tensors}
    assert_same({name: tensors[name] for name in expected}, expected)


def test_metadata_is_kept() -> None:
    """Any free text is written and read back."""
    layout = TensorLayout((Tensor("x", np.dtype("<f4"), (2,)),))
    metadata = {"format": "pt", "who": 'ünï "codé" \n'}
    header = encoder_for("safetensors", layout, metadata).header()
    assert read_metadata(BytesSource(header + bytes(8))) == metadata
    assert safetensors.numpy.load(header + bytes(8))["x"].tolist() == [0, 0]


def test_a_file_may_have_no_metadata() -> None:
    """A file without free text has none."""
    data = safetensors.numpy.save({"x": np.zeros(2, "f4")})
    assert read_metadata(BytesSource(data)) == {}


def test_one_read_opens_a_file() -> None:
    """The header of an ordinary model takes one request."""
    tensors = {f"layer.{n}.weight": np.zeros(100, "f4") for n in range(267)}
    source = CountingSource(BytesSource(safetensors.numpy.save(tensors)))
    peek_layout(source, "safetensors")
    assert source.reads == 1


def test_a_large_header_takes_two_reads() -> None:
    """A header that the first read does not cover takes one more."""
    tensors = {f"layer.{n}.{'x' * 100}": np.zeros(1, "f4") for n in range(1000)}
    source = CountingSource(BytesSource(safetensors.numpy.save(tensors)))
    assert len(peek_layout(source, "safetensors").tensors) == 1000
    assert source.reads == 2


def test_files_that_differ_in_metadata_share_an_index() -> None:
    """The structure is held once in memory, whatever free text the clients add."""
    tensors = {"x": np.zeros(3, "f4"), "y": np.zeros(2, "f8")}
    first, second = (
        open_safetensors(BytesSource(safetensors.numpy.save(tensors, {"client": client})), Limits())
        for client in ("one", "another one")
    )
    assert first.base != second.base
    assert first.index is second.index


def test_the_order_is_that_of_the_data() -> None:
    """Tensors come in the order of their bytes, whatever the order of the header."""
    entries = {
        "b": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    header = json.dumps(entries).encode()
    data = len(header).to_bytes(8, "little") + header + b"\1\2"
    layout, tensors = decode(data, "safetensors")
    assert [tensor.name for tensor in layout.tensors] == ["a", "b"]
    assert tensors["b"].tolist() == [2]


def test_a_differing_layout_is_rejected_with_the_difference() -> None:
    """An update that differs from the model's layout is rejected with the difference."""
    model = TensorLayout((Tensor("x", np.dtype("<f4"), (2,)),))
    data = safetensors.numpy.save({"x": np.zeros((2, 1), "f4")})
    with Spool() as spool, pytest.raises(UpdateRejected, match=r"'x' is F32 \[2, 1\]"):
        open_weights(BytesSource(data), "safetensors", expected_layout=model, spool=spool)
