"""Writing a JSON list of layers that `json.load` reads back to exactly the same values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AggregationError, quoted
from ...layout import BFLOAT16, Tensor
from ..encoder import Piece, TensorEncoder

#: Elements turned into text at once.
BLOCK_ELEMENTS = 16 << 10

#: Its shortest digits, 7.038531e-26, as float64 lie half-way to the next float32, and go there.
_MISREAD = np.uint32(0x15AE43FD).view(np.float32)


class JsonEncoder(TensorEncoder):
    """Nested lists; a number has the fewest digits that tell it from its neighbours in its dtype.

    A float32, read as the float64 that Python makes of the text, rounds back to the same float32.
    This has been tried for every one of them; the exception, `_MISREAD`, gets more digits.
    """

    def header(self) -> bytes:
        return b"["

    def footer(self) -> bytes:
        return super().footer() + b"]"

    def _begin(self, number: int, tensor: Tensor) -> bytes:
        comma = b"," if number else b""
        return comma + (b"" if tensor.size else _empty_lists(tensor.shape))

    def _values(self, tensor: Tensor, start: int, data: memoryview) -> Iterator[Piece]:
        values = np.frombuffer(data, tensor.dtype)
        with np.errstate(invalid="ignore"):  # what a signalling NaN in bfloat16 raises
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
    if values.dtype == np.float64 or values.dtype.kind in "iu":
        return list(map(repr, values.tolist()))
    texts = list(map(str, values))
    for place in np.flatnonzero(np.abs(values) == _MISREAD):
        texts[place] = repr(float(values[place]))
    return texts


def _nested(texts: Sequence[str], first: int, shape: tuple[int, ...]) -> Iterator[str]:
    """Elements of a tensor from number ``first`` on, with the brackets and commas around them."""
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
    """What comes before an element: the ends of lists, a comma, the beginnings of lists."""
    if not element:
        return "[" * len(sizes)
    lists = sum(element % size == 0 for size in sizes)
    return f"{']' * lists},{'[' * lists}"


def _empty_lists(shape: tuple[int, ...]) -> bytes:
    """Lists of shape ``shape``, which has a zero in it."""
    inner = b"[]"
    for size in reversed(shape[: shape.index(0)]):
        inner = b"[" + b",".join([inner] * size) + b"]"
    return inner
