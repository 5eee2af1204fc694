"""Reading an update that is compressed by topk by ranges of the model, like any other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..cache import cache_by_weight
from ..errors import UpdateRejected, quoted
from ..layout import Tensor, TensorLayout, is_indexable, layout_difference, number_order
from ..sources import Buffer
from ..weights import ABSENT, TensorIndex, Weights, shared_index
from .int8 import BLOCK, is_quantized
from .topk import BYTE, ENTRIES, ENTRY, OFFSET_DTYPE, OFFSETS, TOPK, check_names, offsets_tensor

#: The most rows that are read in one request, so that an object that contains all elements takes no more
#: memory than others: 768 KiB. A hundredth of the elements of a chunk is fewer.
_ROWS = 1 << 17

#: The most tensors of a small object, of which several are cached.
_SMALL = 2_500


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The blocks of a layout.

    Parameters
    ----------
    offsets : TensorLayout
        The offsets of each tensor, under its name.
    starts, stops : (n_blocks,) int64
        The elements of each block in the flattened model.
    places : (n_blocks,) int64
        The number of the offset of each block's first row; the next offset is the end of its rows.
    """

    offsets: TensorLayout
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    places: NDArray[np.int64]

    def between(self, first: int, last: int) -> tuple[int, int]:
        """Return which blocks contain the elements ``first`` to ``last``."""
        begin = max(bisect_right(self.starts, first) - 1, 0)
        return begin, max(bisect_left(self.starts, last), begin)


@lru_cache(maxsize=4)
def _blocks_of(layout: TensorLayout) -> _Blocks:
    starts, stops, places, place = [], [], [], 0
    empty = np.empty(0, np.int64)
    for tensor, start in zip(layout.tensors, layout.starts, strict=False):
        if is_quantized(tensor.dtype):
            of_tensor = np.arange(start, start + tensor.size, BLOCK)
            starts.append(of_tensor)
            stops.append(np.minimum(of_tensor + BLOCK, start + tensor.size))
            places.append(np.arange(place, place + of_tensor.size))
            place += of_tensor.size + 1
    return _Blocks(
        offsets=TensorLayout(tuple(map(offsets_tensor, layout.tensors))),
        starts=np.concatenate([empty, *starts]),
        stops=np.concatenate([empty, *stops]),
        places=np.concatenate([empty, *places]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TopkWeights(Weights):
    """An update that contains the largest elements of each tensor of floating-point numbers.

    To the `index`, these tensors are absent: they are zeros before the elements are written.

    Parameters
    ----------
    offsets : TensorIndex
        Where the offsets of each tensor are, under its name.
    entries : int
        The first byte of the rows, counted from `base`.
    rows : int
    """

    offsets: TensorIndex
    entries: int
    rows: int

    @property
    def is_compressed(self) -> bool:
        return True

    @property
    def held(self) -> NDArray[np.bool_]:
        held: NDArray[np.bool_] = super().held | (self.offsets.offsets != ABSENT)
        return held

    def in_order(self, order: TensorLayout) -> TopkWeights:
        index = self.index.in_order(order)
        if index is self.index:
            return self
        return replace(self, index=index, offsets=self.offsets.in_order(_blocks_of(order).offsets))

    def nbytes_between(self, first: int, last: int) -> int:
        """Return how many bytes hold a range, as if the rows were spread evenly over the elements."""
        blocks, layout = _blocks_of(self.layout), self.layout
        begin, end = blocks.between(first, last)
        of_floats = int((blocks.stops[begin:end] - blocks.starts[begin:end]).sum())
        of_rows = self.rows * of_floats // max(int((blocks.stops - blocks.starts).sum()), 1)
        whole = sum(
            (stop - start) * dtype.itemsize
            for start, stop, dtype in layout.runs_between(first, last)
            if not is_quantized(dtype)
        )
        return whole + (end - begin) * OFFSET_DTYPE.itemsize + of_rows * ENTRY.itemsize

    def read_into(self, order: TensorLayout, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with the elements of the model from byte ``start`` on.

        One range of the offsets is read, and one of the rows. The range must begin and end between
        elements.

        Raises
        ------
        UpdateRejected
            If offsets or indices are not in order or out of range, or the object is shorter or has changed.
        """
        ordered = self.in_order(order)
        Weights.read_into(ordered, order, start, buffer)
        first, last = order.element_at(start), order.element_at(start + len(buffer))
        for positions, values in ordered._elements(order, first, last):
            _write(order, (first, last), buffer, positions, values)

    def _elements(
        self, order: TensorLayout, first: int, last: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield the elements of the blocks that contain a range, and their places in the model."""
        blocks = _blocks_of(order)
        begin, end = blocks.between(first, last)
        if begin == end:
            return
        froms, ends = self._read_offsets(order, begin, end)
        for group in _groups(froms, ends):
            entries = np.empty(int(ends[group][-1] - froms[group][0]), ENTRY)
            if not entries.size:
                continue
            place = self.base + self.entries + int(froms[group][0]) * ENTRY.itemsize
            self.source.read_into(place, entries.view(np.uint8).data)
            counts = ends[group] - froms[group]
            starts = np.repeat(blocks.starts[begin:end][group], counts)
            stops = np.repeat(blocks.stops[begin:end][group], counts)
            positions = starts + entries["index"]
            # Across blocks, positions increase if none is beyond the end of its block.
            bad = positions >= stops
            bad[1:] |= positions[1:] <= positions[:-1]
            for row in np.flatnonzero(bad):
                raise UpdateRejected(
                    f"the index {entries['index'][row]} in the block from {order.locate(int(starts[row]))} "
                    f"on is repeated, not sorted, or not below {stops[row] - starts[row]}"
                )
            yield positions, entries["value"]

    def _read_offsets(
        self, order: TensorLayout, begin: int, end: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row of each block, and the end of its rows."""
        blocks = _blocks_of(order)
        places = blocks.places[begin:end]
        table = np.empty(int(places[-1] - places[0]) + 2, OFFSET_DTYPE)
        offsets = Weights(
            index=self.offsets, source=self.source, format=self.format, base=self.base
        )
        where = int(places[0]) * OFFSET_DTYPE.itemsize
        offsets.read_into(blocks.offsets, where, table.view(np.uint8).data)
        # Numbers beyond the rows are still too large after this, and fit into int64.
        table = np.minimum(table, np.uint64(self.rows + 1)).astype(np.int64)
        froms, ends = table[places - places[0]], table[places - places[0] + 1]
        sizes = blocks.stops[begin:end] - blocks.starts[begin:end]
        for block in np.flatnonzero((ends < froms) | (ends > self.rows) | (ends - froms > sizes)):
            raise UpdateRejected(
                f"the offsets of the block from {order.locate(int(blocks.starts[begin + block]))} on are "
                f"not sorted, beyond the {self.rows} rows, or more than {sizes[block]} apart"
            )
        return froms, ends


def _groups(froms: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[slice]:
    """Yield the blocks whose rows are read together: those that follow one another in the object."""
    start = 0
    for block in range(1, len(froms) + 1):
        if (
            block == len(froms)
            or froms[block] != ends[block - 1]
            or ends[block] - froms[start] > _ROWS
        ):
            yield slice(start, block)
            start = block


def _write(
    order: TensorLayout,
    between: tuple[int, int],
    buffer: Buffer,
    positions: NDArray[np.int64],
    values: NDArray[np.float32],
) -> None:
    """Write elements to their places in the buffer of a range."""
    for begin, end, dtype in order.runs_between(*between):
        low, high = np.searchsorted(positions, (begin, end))
        if low == high:
            continue
        place = order.bytes_before(begin) - order.bytes_before(between[0])
        target = np.frombuffer(buffer[place : place + (end - begin) * dtype.itemsize], dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # The check of the values reports these.
            target[positions[low:high] - begin] = values[low:high]


def open_topk(stored: Weights, expected_layout: TensorLayout | None) -> TopkWeights:
    """Return an object whose header was read as the update that it contains.

    Parameters
    ----------
    stored : Weights
        The tensors as the header describes them.
    expected_layout : TensorLayout, optional
        The model's.

    Raises
    ------
    UpdateRejected
        If the layout is not the model's, or there are not as many offsets as the blocks need.
    """
    index, offsets = _indexes((stored.index, expected_layout))
    return TopkWeights(
        index=index,
        offsets=offsets,
        entries=stored.index.places[ENTRIES],
        rows=stored.layout.by_name[ENTRIES].shape[0],
        source=stored.source,
        format=stored.format,
        base=stored.base,
    )


Key = tuple[TensorIndex, TensorLayout | None]


@cache_by_weight(weigh=lambda key: len(key[0].layout.tensors), small=_SMALL)
def _indexes(key: Key) -> tuple[TensorIndex, TensorIndex]:
    """Return the indexes of the tensors of integers, and of the offsets of the others."""
    held, expected_layout = key
    check_names(expected_layout.by_name if expected_layout else ())
    own = [tensor for tensor in held.layout.tensors if tensor.name not in (OFFSETS, ENTRIES)]
    tensors = [_decompressed(tensor) for tensor in own]
    order = list(number_order([tensor.name for tensor in tensors]) or range(len(tensors)))
    layout = TensorLayout(tuple(tensors[position] for position in order))
    difference = layout_difference(expected_layout, layout) if expected_layout else None
    if difference:
        raise UpdateRejected(difference)
    counts = [offsets_tensor(tensor).size for tensor in tensors]
    _check_offsets(held.layout.by_name.get(OFFSETS), sum(counts))
    _check_entries(held.layout.by_name.get(ENTRIES))
    ends = np.cumsum(counts, dtype=np.int64)
    places = held.places[OFFSETS] + (ends - counts) * OFFSET_DTYPE.itemsize
    offsets = np.array(
        [ABSENT if is_quantized(tensor.dtype) else held.places[tensor.name] for tensor in tensors],
        np.int64,
    )
    of_blocks = TensorLayout(tuple(map(offsets_tensor, layout.tensors)))
    return shared_index(layout, offsets[order]), shared_index(of_blocks, places[order])


def _decompressed(stored: Tensor) -> Tensor:
    if not is_quantized(stored.dtype):
        return stored
    if stored.shape[:1] != (0,) or not is_indexable(stored.shape[1:]):
        raise UpdateRejected(
            f"tensor {quoted(stored.name)} is {stored}, and compression is {TOPK!r}: expected a shape that "
            "is 0 followed by the model's"
        )
    return replace(stored, shape=stored.shape[1:])


def _check_offsets(offsets: Tensor | None, count: int) -> None:
    if offsets is None or offsets.dtype != OFFSET_DTYPE or offsets.shape != (count,):
        raise UpdateRejected(
            f"compression is {TOPK!r}, and tensor {OFFSETS!r} is {offsets or 'missing'}, expected U64 "
            f"[{count}]: for each tensor, one offset for each block of {BLOCK} elements and one more"
        )


def _check_entries(entries: Tensor | None) -> None:
    if entries is None or entries.dtype != BYTE or entries.shape[1:] != (ENTRY.itemsize,):
        raise UpdateRejected(
            f"compression is {TOPK!r}, and tensor {ENTRIES!r} is {entries or 'missing'}, expected U8 of "
            f"{ENTRY.itemsize} bytes in each row"
        )
