"""Reading ranges of the flattened model from objects that hold it in another order."""

from __future__ import annotations

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregation import weights as module
from aggregation.layout import Tensor, TensorLayout
from aggregation.sources import BytesSource
from aggregation.weights import MAX_GAP_BYTES, MAX_SPAN_BYTES, Weights, shared_index
from tests.aggregation.formats.samples import (
    CountingSource,
    flattened,
    layouts,
    read_flat,
    values_of,
)


@given(layouts(), st.integers(0, 2**32), st.randoms(), st.integers(1, 9), st.integers(0, 40))
def test_ranges_are_read_in_the_order_of_the_model(
    layout: TensorLayout, seed: int, random: object, steps: int, gap: int
) -> None:
    """The bytes are those of the requested order, whatever the order and the gaps in the object."""
    arrays = dict(zip(layout.tensors, values_of(layout, seed), strict=True))
    held = list(layout.tensors)
    random.shuffle(held)  # type: ignore[attr-defined]
    data, offsets = bytearray(b"\xee" * 7), []
    for tensor in held:
        data += b"\xee" * gap
        offsets.append(len(data) - 7)
        data += arrays[tensor].tobytes()
    index = shared_index(TensorLayout(tuple(held)), offsets)
    weights = Weights(index=index, source=BytesSource(data), format="npz", base=7)
    assert read_flat(weights, layout, steps) == flattened(arrays.values())


def _weights(
    tensors: int, elements: int, gap: int, backwards: bool
) -> tuple[Weights, CountingSource]:
    layout = TensorLayout(
        tuple(Tensor(f"w{n}", np.dtype("<f4"), (elements,)) for n in range(tensors))
    )
    step = elements * 4 + gap
    places = [n * step for n in range(tensors)]
    source = CountingSource(BytesSource(bytes(tensors * step)))
    index = shared_index(layout, list(reversed(places)) if backwards else places)
    return Weights(index=index, source=source, format="npz"), source


def test_small_tensors_are_read_together() -> None:
    """A chunk of many small tensors takes one read, in whichever order the object holds them."""
    for backwards in (False, True):
        weights, source = _weights(267, 300, gap=250, backwards=backwards)
        read_flat(weights, weights.layout)
        assert source.reads == 1


def test_reads_are_bounded() -> None:
    """Tensors far apart are read separately, and a read of several tensors is never large."""
    weights, source = _weights(4, 10, gap=MAX_GAP_BYTES + 1, backwards=False)
    read_flat(weights, weights.layout)
    assert (source.reads, source.bytes_read) == (4, 160)
    weights, source = _weights(40, MAX_SPAN_BYTES // 40, gap=10, backwards=True)
    read_flat(weights, weights.layout)
    assert 4 <= source.reads <= 5


def test_equal_structures_share_one_index() -> None:
    """Objects with the same structure share an index, which is freed with its last user."""
    layout = TensorLayout((Tensor("only here", np.dtype("<f4"), (3,)),))
    index = shared_index(layout, (0,))
    assert shared_index(TensorLayout(layout.tensors), (0,)) is index
    assert shared_index(layout, (4,)) is not index
    del index
    gc.collect()
    assert not any(key[0] == layout for key in module._shared)
