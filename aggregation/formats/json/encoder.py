"""Writes a JSON list of layers that `json.load` reads back to exactly the same values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AggregationError, quoted
from ...layout import BFLOAT16, Tensor, TensorLayout, is_integral
from ..encoder import Piece, TensorEncoder

#: How many elements are converted to text at once.
BLOCK_ELEMENTS = 16 << 10

#: The most empty lists that a tensor without elements is written as: shape (10**9, 0) is not.
MAX_EMPTY_LISTS = 1 << 20

#: Its shortest digits, 7.038531e-26, are as float64 half-way to the next float32, to which they round.
_MISREAD = np.uint32(0x15AE43FD).view(np.float32)


class JsonEncoder(TensorEncoder):
    """Nested lists of numbers with the fewest digits that distinguish them in their dtype.

    Python reads the text of a float32 as a float64, which rounds to the same float32. This was checked
    for every float32; the only exception, `_MISREAD`, is written with more digits.

    Raises
    ------
    AggregationError
        If a tensor without elements would be written as millions of empty lists.
    """

    def __init__(self, layout: TensorLayout, state: Mapping[str, Any] | None = None) -> None:
        for tensor in layout.tensors:
            if not tensor.size and prod(_before_zero(tensor.shape)) > MAX_EMPTY_LISTS:
                raise AggregationError(f"JSON cannot hold tensor {quoted(tensor.name)} ({tensor})")
        super().__init__(layout, state)

    def header(self) -> bytes:
        return b"["

    def footer(self) -> bytes:
        return super().footer() + b"]"

    def _begin(self, number: int, tensor: Tensor) -> bytes:
        comma = b"," if number else b""
        return comma + (b"" if tensor.size else _empty_lists(tensor.shape))

    def _values(self, tensor: Tensor, start: int, data: memoryview) -> Iterator[Piece]:
        values = np.frombuffer(data, tensor.dtype)
        with np.errstate(invalid="ignore"):  # raised for signalling NaNs in bfloat16
            finite = np.isfinite(values).all()
        if not finite:
            raise AggregationError(f"JSON cannot hold tensor {quoted(tensor.name)}: not finite")
        first = start // tensor.dtype.itemsize
        for begin in range(0, len(values), BLOCK_ELEMENTS):
            block = values[begin : begin + BLOCK_ELEMENTS]
            yield "".join(_nested(_texts(block), first + begin, tensor.shape)).encode()

    def _end(self, number: int, tensor: Tensor) -> bytes:
        return b""


def _texts(values: NDArray[Any]) -> list[str]:
    if values.dtype == BFLOAT16:
        values = values.astype(np.float32)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.dtype == np.float64 or is_integral(values.dtype):
        return list(map(repr, values.tolist()))
    texts = list(map(str, values))
    for place in np.flatnonzero(np.abs(values) == _MISREAD):
        texts[place] = repr(float(values[place]))
    return texts


def _nested(texts: Sequence[str], first: int, shape: tuple[int, ...]) -> Iterator[str]:
    """Yield a tensor's elements from number ``first`` on, with the brackets and commas between them."""
    sizes = list(accumulate(reversed(shape), mul))  # of the lists, the innermost first
    row = sizes[0] if sizes else 1
    start, stop = first, first + len(texts)
    while start < stop:
        end = min(stop, start + row - start % row)
        yield _before(start, sizes)
        yield ",".join(texts[start - first : end - first])
        start = end
    if sizes and stop == sizes[-1]:
        yield "]" * len(sizes)


def _before(element: int, sizes: Sequence[int]) -> str:
    """Return what precedes an element: the ends of lists, a comma, the beginnings of lists."""
    if not element:
        return "[" * len(sizes)
    lists = sum(element % size == 0 for size in sizes)
    return f"{']' * lists},{'[' * lists}"


def _empty_lists(shape: tuple[int, ...]) -> bytes:
    """Return nested lists of ``shape``, which contains a zero."""
    inner = b"[]"
    for size in reversed(_before_zero(shape)):
        inner = b"[" + b",".join([inner] * size) + b"]"
    return inner


def _before_zero(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dimensions before the first zero, which are all that JSON text can express."""
    return shape[: shape.index(0)]
