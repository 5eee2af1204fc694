"""Layers without names, in every format: they are identified by their numbers."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.formats import Spool, open_weights, peek_layout
from aggregation.in_memory import weights_in_memory
from aggregation.layout import TensorLayout, layer_name
from aggregation.sources import BytesSource
from aggregation.weights import Weights
from tests.aggregation.formats.samples import read_flat

FORMATS = ("safetensors", "npz", "json", "memory")


def opened(
    format: str,
    order: list[int],
    layers: list[Any],
    spool: Spool,
    expected_layout: TensorLayout | None = None,
) -> Weights:
    """Write numbered layers in any order, as far as the format has one, and open them."""
    arrays = {layer_name(number): layers[number] for number in order}
    if format == "memory":
        return weights_in_memory(arrays)
    file = io.BytesIO()
    if format == "safetensors":
        file.write(safetensors.numpy.save(arrays))
    elif format == "npz":
        np.savez(file, **arrays)
    else:
        file.write(json.dumps([layer.tolist() for layer in layers]).encode())
    source = BytesSource(file.getvalue())
    return open_weights(source, format, expected_layout=expected_layout, spool=spool)


@given(st.sampled_from(FORMATS), st.sampled_from(FORMATS), st.integers(1, 30), st.data())
def test_a_layer_is_found_by_its_number(
    model_format: str, format: str, count: int, data: st.DataObject
) -> None:
    """Whatever the formats and the orders in which layers are written, arr_10 comes after arr_9."""
    layers = [np.full(2, number, np.float64) for number in range(count)]
    orders = data.draw(st.tuples(*[st.permutations(range(count))] * 2))
    with Spool() as spool:
        model = opened(model_format, orders[0], layers, spool).layout
        update = opened(format, orders[1], layers, spool, model)
        found = np.frombuffer(read_flat(update, model), np.float64)[::2]
    assert found.tolist() == [int(t.name.removeprefix("arr_")) for t in model.tensors]
    if model_format != "memory":
        assert found.tolist() == list(range(count))


@pytest.mark.parametrize("format", FORMATS[:3])
def test_a_list_is_not_matched_with_names(format: str) -> None:
    """Layers of the right shapes but without names are refused, and the message says what to send."""
    layers = [np.zeros(3), np.zeros(3)]
    model = weights_in_memory({"w": layers[0], "b": layers[1]}).layout
    with Spool() as spool, pytest.raises(UpdateRejected, match="no names"):
        opened(format, [0, 1], layers, spool, model)


@pytest.mark.parametrize("format", FORMATS[:2])
def test_names_are_not_matched_with_a_list(format: str) -> None:
    """Named tensors are refused for a model without names, and the message says what to send."""
    model = weights_in_memory([np.zeros(3), np.zeros(3)]).layout
    arrays: dict[str, Any] = {"w": np.zeros(3), "b": np.zeros(3)}
    file = io.BytesIO()
    if format == "npz":
        np.savez(file, **arrays)
    else:
        file.write(safetensors.numpy.save(arrays))
    source = BytesSource(file.getvalue())
    assert not peek_layout(source, format).is_numbered
    with Spool() as spool, pytest.raises(UpdateRejected, match="send the layers"):
        open_weights(source, format, expected_layout=model, spool=spool)
