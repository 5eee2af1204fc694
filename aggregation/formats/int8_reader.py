"""Reading an update that is compressed by int8 by ranges of the model, like any other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cache import cache_by_weight
from ..errors import UpdateRejected, quoted
from ..layout import Tensor, TensorLayout, layout_difference, number_order
from ..sources import Buffer
from ..weights import TensorIndex, Weights, shared_index
from .int8 import (
    BLOCK,
    INT8,
    INT8_DTYPE,
    PIECE,
    SCALE_DTYPE,
    SCALES,
    check_names,
    is_quantized,
    scales_of,
    stored_tensor,
)

#: The most tensors of a small object, of which several are cached.
_SMALL = 2_500


@dataclass(frozen=True, eq=False)
class _Compression:
    """How the elements of a layout are compressed.

    Parameters
    ----------
    numbers : TensorLayout
        The tensors as they are stored.
    scales : TensorLayout
        The scales of each tensor, under its name.
    block_starts : sequence of int
        The first element of each block in the flattened model.
    """

    numbers: TensorLayout
    scales: TensorLayout
    block_starts: NDArray[np.int64]

    def blocks_between(self, first: int, last: int) -> tuple[int, int]:
        """Return which blocks contain the elements ``first`` to ``last``."""
        begin = bisect_right(self.block_starts, first) - 1
        return max(begin, 0), bisect_left(self.block_starts, last)


@lru_cache(maxsize=4)
def _compression_of(layout: TensorLayout) -> _Compression:
    starts = [
        np.arange(start, start + tensor.size, BLOCK)
        for tensor, start in zip(layout.tensors, layout.starts, strict=False)
        if is_quantized(tensor.dtype)
    ]
    return _Compression(
        numbers=TensorLayout(tuple(map(stored_tensor, layout.tensors))),
        scales=TensorLayout(tuple(map(scales_of, layout.tensors))),
        block_starts=np.concatenate([np.empty(0, np.int64), *starts]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Weights(Weights):
    """An update whose tensors of floating-point numbers are rounded to 8 bits.

    Parameters
    ----------
    numbers : TensorIndex
        Where the tensors are, with the dtypes that they have in the object.
    scales : TensorIndex
        Where the scales of each tensor are, under its name.
    """

    numbers: TensorIndex
    scales: TensorIndex

    @property
    def is_compressed(self) -> bool:
        return True

    def in_order(self, order: TensorLayout) -> Int8Weights:
        index = self.index.in_order(order)
        if index is self.index:
            return self
        compression = _compression_of(order)
        return replace(
            self,
            index=index,
            numbers=self.numbers.in_order(compression.numbers),
            scales=self.scales.in_order(compression.scales),
        )

    def nbytes_between(self, first: int, last: int) -> int:
        compression = _compression_of(self.layout)
        begin, end = compression.blocks_between(first, last)
        of_scales = max(end - begin, 0) * SCALE_DTYPE.itemsize
        return _bytes_between(compression.numbers, first, last) + of_scales

    def read_into(self, order: TensorLayout, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with the dequantized elements of the model from byte ``start`` on.

        One range of the 8-bit numbers is read, and one of the scales. The range must begin and end
        between elements.

        Raises
        ------
        UpdateRejected
            If a scale is negative, infinite or NaN, or the object is shorter or has changed.
        """
        ordered = self.in_order(order)
        stored = _compression_of(order).numbers
        first, last = order.element_at(start), order.element_at(start + len(buffer))
        # The numbers are read into the end of the buffer and converted from the front: no element is
        # written over a number that is needed later, because no element is shorter than its number.
        numbers = buffer[len(buffer) - _bytes_between(stored, first, last) :]
        place = stored.bytes_before(first)
        ordered._part(ordered.numbers).read_into(stored, place, numbers)
        scales = ordered._read_scales(order, first, last)
        for begin, end, dtype in _pieces(order, first, last):
            target = buffer[order.bytes_before(begin) - start : order.bytes_before(end) - start]
            source = numbers[stored.bytes_before(begin) - place : stored.bytes_before(end) - place]
            copied = bytes(source)
            if is_quantized(dtype):
                with np.errstate(over="ignore"):  # The check of the values reports infinity.
                    product = np.frombuffer(copied, np.int8) * scales.between(begin, end)
                    np.frombuffer(target, dtype)[:] = product
            else:
                target[:] = copied

    def _part(self, index: TensorIndex) -> Weights:
        """Return the numbers or the scales as they are stored."""
        return Weights(index=index, source=self.source, format=self.format, base=self.base)

    def _read_scales(self, order: TensorLayout, first: int, last: int) -> _Scales:
        compression = _compression_of(order)
        begin, end = compression.blocks_between(first, last)
        values = np.empty(max(end - begin, 0), np.float32)
        if values.size:
            place = begin * SCALE_DTYPE.itemsize
            scales = self._part(self.scales)
            scales.read_into(compression.scales, place, values.view(np.uint8).data)
        starts = compression.block_starts[begin:end]
        for block in np.flatnonzero(~((values >= 0) & np.isfinite(values))):
            where = order.locate(int(starts[block]))
            raise UpdateRejected(
                f"the scale of the block from {where} on is {values[block]}, expected a finite number "
                "that is not negative"
            )
        return _Scales(values, starts)


@dataclass(frozen=True, eq=False)
class _Scales:
    """The scales of blocks that follow one another, and the first element of each of them."""

    values: NDArray[np.float32]
    starts: NDArray[np.int64]

    def between(self, first: int, last: int) -> NDArray[np.float32]:
        """Return the scale of each element from ``first`` to ``last``, which are in blocks."""
        begin = bisect_right(self.starts, first) - 1
        edges = np.append(self.starts[begin : bisect_left(self.starts, last)], last)
        edges[0] = first
        return np.repeat(self.values[begin:][: edges.size - 1], np.diff(edges))


def _pieces(
    layout: TensorLayout, first: int, last: int
) -> Iterator[tuple[int, int, np.dtype[Any]]]:
    for start, stop, dtype in layout.runs_between(first, last):
        for begin in range(start, stop, PIECE):
            yield begin, min(begin + PIECE, stop), dtype


def _bytes_between(layout: TensorLayout, first: int, last: int) -> int:
    return layout.bytes_before(last) - layout.bytes_before(first)


def open_int8(stored: Weights, expected_layout: TensorLayout | None) -> Int8Weights:
    """Return an object whose header was read as the update that it contains.

    Parameters
    ----------
    stored : Weights
        The tensors as the header describes them.
    expected_layout : TensorLayout, optional
        The model's, whose dtypes the tensors get; float32 without it.

    Raises
    ------
    UpdateRejected
        If the layout is not the model's, or there is not one scale for each block.
    """
    index, numbers, scales = _indexes((stored.index, expected_layout))
    return Int8Weights(
        index=index,
        numbers=numbers,
        scales=scales,
        source=stored.source,
        format=stored.format,
        base=stored.base,
    )


Key = tuple[TensorIndex, TensorLayout | None]


@cache_by_weight(weigh=lambda key: len(key[0].layout.tensors), small=_SMALL)
def _indexes(key: Key) -> tuple[TensorIndex, TensorIndex, TensorIndex]:
    """Return the indexes of the elements, of the stored tensors and of their scales."""
    held, expected_layout = key
    offset = _offset_of_scales(held, expected_layout)
    tensors = [_decompressed(t, expected_layout) for t in held.layout.tensors if t.name != SCALES]
    offsets = [place for name, place in held.places.items() if name != SCALES]
    names = [tensor.name for tensor in tensors]
    order = number_order(names) or range(len(names))
    layout = TensorLayout(tuple(tensors[position] for position in order))
    difference = layout_difference(expected_layout, layout) if expected_layout else None
    if difference:
        raise UpdateRejected(difference)
    blocks = [scales_of(tensor).size for tensor in tensors]
    _check_count(sum(blocks), held.layout.by_name[SCALES])
    ends = np.cumsum(blocks, dtype=np.int64)
    scales = offset + (ends - blocks) * SCALE_DTYPE.itemsize
    compression = _compression_of(layout)
    places = np.array(offsets, np.int64)[list(order)]
    return (
        shared_index(layout, places),
        shared_index(compression.numbers, places),
        shared_index(compression.scales, scales[list(order)]),
    )


def _offset_of_scales(held: TensorIndex, expected_layout: TensorLayout | None) -> int:
    check_names(expected_layout.by_name if expected_layout else ())
    scales = held.layout.by_name.get(SCALES)
    if scales is None:
        raise UpdateRejected(f"compression is {INT8!r}, and there is no tensor {SCALES!r}")
    if scales.dtype != SCALE_DTYPE or len(scales.shape) != 1:
        raise UpdateRejected(f"tensor {SCALES!r} is {scales}, expected F32 of one dimension")
    return held.places[SCALES]


def _decompressed(stored: Tensor, expected_layout: TensorLayout | None) -> Tensor:
    """Return a tensor with the dtype that its elements get."""
    if is_quantized(stored.dtype):
        raise UpdateRejected(
            f"tensor {quoted(stored.name)} is {stored}, and compression is {INT8!r}: expected I8"
        )
    if stored.dtype != INT8_DTYPE:
        return stored
    if expected_layout is None:
        return replace(stored, dtype=SCALE_DTYPE)
    model = expected_layout.by_name.get(stored.name)
    return replace(stored, dtype=model.dtype) if model and is_quantized(model.dtype) else stored


def _check_count(blocks: int, scales: Tensor) -> None:
    if scales.size != blocks:
        raise UpdateRejected(
            f"tensor {SCALES!r} has {scales.size} scales, and the tensors have {blocks} blocks of at most "
            f"{BLOCK} elements: expected one scale for each block"
        )
