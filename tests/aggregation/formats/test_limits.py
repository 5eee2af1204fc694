"""What reading and writing one object may cost: models of many tensors, and files of clients."""

from __future__ import annotations

import io
import tracemalloc
from functools import cache

import numpy as np
import pytest
import safetensors.numpy

from aggregation.errors import AggregationError, UpdateRejected
from aggregation.formats import FORMATS, Spool, encoder_for, open_weights, peek_layout
from aggregation.formats.limits import HEADER_BYTES, LIBRARY_HEADER_BYTES, limits_for
from aggregation.layout import Tensor, TensorLayout
from aggregation.sources import BytesSource

#: The adapters of a mixture of experts have tens of thousands of small tensors with long names.
NAMES = [
    f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.gate_proj.lora_{x}.weight"
    for layer in range(50)
    for expert in range(200)
    for x in "AB"
]
#: What a function of the smallest size has for its work.
MEMORY_BYTES = 128 << 20


@cache
def model_of_many_tensors(format: str) -> bytes:
    """Return a file of 20,000 tensors, as the format's own library writes it."""
    arrays = {name: np.ones((1, 1), np.float32) for name in NAMES}
    if format == "safetensors":
        return bytes(safetensors.numpy.save(arrays))
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_a_client_may_send_as_many_tensors_as_the_model_has(format: str) -> None:
    """A long header is refused without a model, read as our own, and allowed if the model needs it."""
    source = BytesSource(model_of_many_tensors(format))
    with pytest.raises(UpdateRejected, match=f"at most {HEADER_BYTES} are read"):
        peek_layout(source, format)
    model = peek_layout(source, format, trusted=True)
    assert peek_layout(source, format, expected_layout=model) == model
    with Spool() as spool:
        assert open_weights(source, format, expected_layout=model, spool=spool).layout == model
    small = TensorLayout(model.tensors[:100])
    with pytest.raises(UpdateRejected, match=f"at most {HEADER_BYTES} are read"):
        peek_layout(source, format, expected_layout=small)


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_many_tensors_take_little_memory(format: str) -> None:
    """Opening two updates of 20,000 tensors takes a fifth of the memory that 100,000 may take."""
    data = model_of_many_tensors(format)
    tracemalloc.start()
    try:
        with Spool() as spool:
            kept = [
                open_weights(BytesSource(data), format, spool=spool, trusted=True) for _ in range(2)
            ]
        encoder_for(format, kept[0].layout).header()
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES // 5 + len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["w", "ü" * 50, "\n" * 50, "\U0001f600" * 20])
def test_the_limits_fit_what_libraries_write(name: str) -> None:
    """A header that a library writes for the model's own tensors is within a client's limit."""
    count = 30_000
    layout = TensorLayout(
        tuple(Tensor(f"{name}{n}", np.dtype("<f4"), (1,) * 4) for n in range(count))
    )
    written = len(encoder_for("safetensors", layout).header())
    assert HEADER_BYTES < written < limits_for(layout).header_bytes < 6 * written
    assert limits_for(layout).header_bytes <= LIBRARY_HEADER_BYTES


@pytest.mark.parametrize("format", FORMATS)
def test_a_result_that_could_not_be_read_back_is_refused_before_the_work(format: str) -> None:
    """An encoder raises when it is created."""
    unreadable = {
        "safetensors": Tensor("__metadata__", np.dtype("<f4"), (1,)),
        "npz": Tensor("../w", np.dtype("<f4"), (1,)),
        "json": Tensor("w", np.dtype("<f4"), (1 << 30, 0)),
    }
    with pytest.raises(AggregationError):
        encoder_for(format, TensorLayout((unreadable[format],)))


def test_more_tensors_than_any_library_reads_are_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A safetensors header beyond the library's own limit is not written."""
    monkeypatch.setattr("aggregation.formats.safetensors.LIBRARY_HEADER_BYTES", 1000)
    layout = TensorLayout(tuple(Tensor(f"w{n}", np.dtype("<f4"), (1,)) for n in range(100)))
    with pytest.raises(AggregationError, match="100 tensors need a safetensors header of"):
        encoder_for("safetensors", layout)
