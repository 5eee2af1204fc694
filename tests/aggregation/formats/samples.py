"""Layouts and values for the tests of the formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregation.formats import Spool, encoder_for, open_weights
from aggregation.layout import BFLOAT16, DTYPES, Tensor, TensorLayout
from aggregation.sources import Buffer, ByteSource, BytesSource
from aggregation.weights import Weights, read_tensors

Array = NDArray[Any]

#: What npz and safetensors both take for a name.
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), max_size=12
).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
dtypes = st.sampled_from(list(DTYPES.values()))


@st.composite
def layouts(draw: st.DrawFn, *, named: bool = True) -> TensorLayout:
    """A layout of up to six tensors, of any dtypes and shapes."""
    count = draw(st.integers(0, 6))
    chosen = draw(st.lists(names, min_size=count, max_size=count, unique=True))
    tensors = tuple(Tensor(name, draw(dtypes), draw(shapes)) for name in chosen)
    return TensorLayout(tensors) if named else TensorLayout.of_layers(tensors)


def values_of(layout: TensorLayout, seed: int, *, finite: bool = False) -> list[Array]:
    """Random bits for each tensor, so that denormals, huge values and NaNs come up; or finite ones."""
    rng = np.random.default_rng(seed)
    arrays = []
    for tensor in layout.tensors:
        array = np.frombuffer(rng.bytes(tensor.nbytes), tensor.dtype).copy()
        if array.dtype == np.bool_:
            array = array.view(np.uint8) % 2 == 1
        if finite:
            with np.errstate(invalid="ignore"):  # what a signalling NaN in bfloat16 raises
                array[~np.isfinite(array)] = 1
        arrays.append(array.reshape(tensor.shape))
    return arrays


def flattened(arrays: Iterable[Array]) -> bytes:
    """The bytes of the flattened model."""
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def encode(
    format: str, layout: TensorLayout, arrays: Sequence[Array], cuts: Iterable[int] = ()
) -> bytes:
    """What the encoder makes of the arrays, cut at the elements given; each piece by a new encoder
    that goes on from the state of the one before, sent through JSON."""
    data = memoryview(flattened(arrays))
    encoder = encoder_for(format, layout)
    pieces: list[bytes | memoryview] = [encoder.header()]
    start = 0
    for cut in [*sorted(cuts), layout.size]:
        stop = layout.bytes_before(cut)
        pieces += encoder.encode(start, data[start:stop])
        encoder = encoder_for(format, layout, state=json.loads(json.dumps(encoder.state())))
        start = stop
    return b"".join([*pieces, encoder.footer()])


def decode(
    data: bytes | ByteSource, format: str, expected_layout: TensorLayout | None = None
) -> tuple[TensorLayout, dict[str, Array]]:
    """What the bytes are, opened and read."""
    source = BytesSource(data) if isinstance(data, bytes) else data
    with Spool() as spool:
        weights = open_weights(source, format, expected_layout=expected_layout, spool=spool)
        return weights.layout, read_tensors(weights)


def read_flat(weights: Weights, order: TensorLayout, steps: int = 1) -> bytes:
    """The flattened model in an order, read in so many steps."""
    buffer = bytearray(order.nbytes)
    for step in range(steps):
        start, stop = (order.nbytes * n // steps for n in (step, step + 1))
        weights.read_into(order, start, memoryview(buffer)[start:stop])
    return bytes(buffer)


def assert_same(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Same names, in the same order, and for each the same dtype, shape and bits."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def as_numpy_knows(array: Array) -> Array:
    """The array as `numpy.load` gives it back: bfloat16 is raw data to it."""
    return array.view("V2") if array.dtype == BFLOAT16 else array


class CountingSource:
    """Counts the reads of another source, and the bytes they took."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.size = source.size
        self.local = source.local
        self.reads = 0
        self.bytes_read = 0

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self.reads += 1
        self.bytes_read += len(buffer)
        self._source.read_into(offset, buffer)
