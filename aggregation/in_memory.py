"""Arrays in memory as a weights object, so that the engine reads them like any other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

#: A model: its arrays by name, its arrays in order, or a single array.
Tensors = Mapping[Any, ArrayLike] | Iterable[ArrayLike] | ArrayLike


def weights_in_memory(arrays: Tensors) -> Weights:
    """Return arrays as a weights object.

    Their bytes are not copied, except those of arrays that are not in C order.

    Parameters
    ----------
    arrays : mapping, iterable of arrays, or array
        Arrays without names are called ``arr_0``, ``arr_1`` and so on.

    Raises
    ------
    UpdateRejected
        If a value is not an array, or has a dtype that a model cannot have.
    """
    tensors, flat = [], []
    for name, values in _named(arrays).items():
        array = as_array(name, values)
        tensors.append(Tensor(name, array.dtype, array.shape))
        flat.append(array.reshape(-1).view(np.uint8))
    source = ArraysSource(flat)
    layout = TensorLayout(tuple(tensors))
    index = shared_index(layout, source.starts[:-1])
    return Weights(index=index, source=source, format=FORMAT)


def arrays_of(values: bytes, layout: TensorLayout) -> dict[str, NDArray[Any]]:
    """Return the arrays of a flattened model, copied from its bytes, by name."""
    starts = accumulate((tensor.nbytes for tensor in layout.tensors), initial=0)
    return {
        tensor.name: np.frombuffer(values, tensor.dtype, tensor.size, start)
        .reshape(tensor.shape)
        .copy()
        for tensor, start in zip(layout.tensors, starts, strict=False)
    }


def is_array(value: object) -> bool:
    """Return whether a value is an array of numpy or of another library, rather than a sequence."""
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _named(arrays: Any) -> dict[str, Any]:
    if isinstance(arrays, Mapping):
        named = {str(name): values for name, values in arrays.items()}
        if len(named) < len(arrays):
            raise UpdateRejected("two of the tensors have the same name")
        return named
    if hasattr(arrays, "state_dict"):
        kind = type(arrays).__name__
        raise UpdateRejected(f"expected arrays, got the module {kind}: pass its state_dict()")
    if is_array(arrays):
        return {layer_name(0): arrays}
    if isinstance(arrays, str | bytes) or not isinstance(arrays, Iterable):
        kind = type(arrays).__name__
        raise UpdateRejected(
            f"expected a mapping of names to arrays, or a list of arrays; got {kind}"
        )
    return {layer_name(number): values for number, values in enumerate(arrays)}


def as_array(name: str, values: Any) -> NDArray[Any]:
    """Return values as an array in C order and in a dtype that a model can have.

    Python's numbers have no dtype and are taken as float64. Otherwise the mean of a list that happens
    to hold only whole numbers would be rounded to whole numbers.

    Raises
    ------
    UpdateRejected
    """
    where = f"tensor {quoted(name)}"
    if values is None or isinstance(values, str | bytes | Mapping):
        kind = type(values).__name__
        raise UpdateRejected(f"{where} is of type {kind}, expected an array")
    if np.ma.isMaskedArray(values):
        raise UpdateRejected(f"{where} is a masked array: call its filled() first")
    try:
        array = np.asarray(_on_the_host(values))
    except Exception as error:  # Every library raises errors of its own.
        raise UpdateRejected(f"{where} is not an array: {error}") from error
    if array.dtype.kind in "iu" and not hasattr(values, "dtype"):
        array = array.astype(np.float64)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in DTYPES.values():
        known = ", ".join(str(dtype) for dtype in DTYPES.values())
        raise UpdateRejected(f"{where} has dtype {array.dtype}; known are {known}")
    return np.asarray(array, dtype, order="C")


def _on_the_host(values: Any) -> Any:
    """Return a tensor of PyTorch as an array in main memory; other values unchanged."""
    if not (hasattr(values, "detach") and hasattr(values, "cpu")):
        return values
    tensor = values.detach().cpu()
    if (
        str(tensor.dtype) == "torch.bfloat16"
    ):  # numpy() does not support it; float32 holds all values.
        return tensor.float().numpy().astype(DTYPES["BF16"])
    return tensor.numpy()


class ArraysSource:
    """A source made of arrays of bytes, laid end to end.

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
