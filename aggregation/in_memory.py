"""Arrays in memory as a weights object, so that the engine reads them like any other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import UpdateRejected, quoted
from .layout import DTYPES, Tensor, TensorLayout, layer_name
from .sources import Buffer
from .weights import Weights, shared_index

#: The format of weights in memory, which no file has.
FORMAT = "memory"

#: Arrays by name, or a model's arrays in their order.
Tensors = Mapping[str, ArrayLike] | Sequence[ArrayLike]


def weights_in_memory(arrays: Tensors) -> Weights:
    """Arrays as a weights object; their bytes are not copied unless they lie out of order.

    Raises
    ------
    UpdateRejected
        If one has no dtype that a model can have.
    """
    if isinstance(arrays, Mapping):
        items = [(str(name), values) for name, values in arrays.items()]
    else:
        items = [(layer_name(number), values) for number, values in enumerate(arrays)]
    tensors, flat = [], []
    for name, values in items:
        array = _as_array(name, values)
        tensors.append(Tensor(name, array.dtype, array.shape))
        flat.append(array.reshape(-1).view(np.uint8))
    source = ArraysSource(flat)
    layout = TensorLayout(tuple(tensors))
    index = shared_index(layout, source.starts[:-1])
    return Weights(index=index, source=source, format=FORMAT)


def _as_array(name: str, values: ArrayLike) -> NDArray[Any]:
    """The values in C order and in a dtype that a model can have.

    Python's numbers have no dtype: they are taken as float64, or a list that happens to hold none but
    whole ones would be averaged to whole ones.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UpdateRejected(f"tensor {quoted(name)} is no array: {error}") from error
    if array.dtype.kind in "iu" and not hasattr(values, "dtype"):
        array = array.astype(np.float64)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in DTYPES.values():
        known = ", ".join(str(dtype) for dtype in DTYPES.values())
        raise UpdateRejected(f"tensor {quoted(name)} has dtype {array.dtype}; known are {known}")
    return np.asarray(array, dtype, order="C")


class ArraysSource:
    """Arrays of bytes, as if they lay end to end.

    Parameters
    ----------
    arrays : sequence of (n,) uint8
    """

    local = True

    def __init__(self, arrays: Sequence[NDArray[np.uint8]]) -> None:
        self._arrays = arrays
        self.starts = tuple(accumulate((array.size for array in arrays), initial=0))
        self.size = self.starts[-1]

    def read_into(self, offset: int, buffer: Buffer) -> None:
        done = 0
        for piece in self._pieces(offset, len(buffer)):
            buffer[done : done + piece.size] = piece.data
            done += piece.size

    def _pieces(self, offset: int, length: int) -> Iterator[NDArray[np.uint8]]:
        stop = offset + length
        index = bisect_right(self.starts, offset) - 1
        while offset < stop:
            start = self.starts[index]
            piece = self._arrays[index][offset - start : stop - start]
            yield piece
            offset, index = offset + piece.size, index + 1
