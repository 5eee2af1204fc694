"""A weights object that is open: its layout is known and checked, and its bytes are read by ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from .layout import TensorLayout
from .sources import Buffer, ByteSource

#: The most unneeded bytes between two pieces of a chunk that are read in one request. A request to an
#: object store takes as long as the transfer of a megabyte.
MAX_GAP_BYTES = 64 << 10

#: The most bytes that are read into scratch memory and copied to their places from there.
MAX_SPAN_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class TensorIndex:
    """The tensors of a weights object, and the byte at which each of them begins.

    Objects of the same structure share one index (`shared_index`), so that values derived from it are
    computed once, and two hundred updates take no more memory than one.

    Parameters
    ----------
    layout : TensorLayout
        In the order in which the object holds the tensors.
    offsets : tuple of int
        Their first bytes, counted from `Weights.base`.
    """

    layout: TensorLayout
    offsets: tuple[int, ...]


_shared: WeakValueDictionary[tuple[TensorLayout, tuple[int, ...]], TensorIndex] = (
    WeakValueDictionary()
)


def shared_index(layout: TensorLayout, offsets: tuple[int, ...]) -> TensorIndex:
    """Return the one index with this content; it exists while anything uses it."""
    return _shared.setdefault((layout, offsets), TensorIndex(layout, offsets))


class Extent(NamedTuple):
    """Bytes ``start`` to ``stop`` of the flattened model, which the object holds at ``offset``."""

    start: int
    stop: int
    offset: int


class Span(NamedTuple):
    """Bytes of an object that are read in one request.

    ``pieces`` are the needed parts of it: ``(begin, place, length)`` stands for ``length`` bytes from
    ``begin`` in the span, which are copied to ``place`` in the reader's buffer.
    """

    offset: int
    length: int
    pieces: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """One weights object, ready to be read by ranges of the flattened model.

    Parameters
    ----------
    index : TensorIndex
    source : ByteSource
    format : str
    base : int
        The byte from which the offsets of the index count.
    """

    index: TensorIndex
    source: ByteSource
    format: str
    base: int = 0

    @property
    def layout(self) -> TensorLayout:
        """The tensors, in the order in which the object holds them."""
        return self.index.layout

    def read_into(self, order: TensorLayout, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with the bytes of the model, flattened in ``order``, from ``start`` on.

        The layout must agree with ``order`` (`aggregation.layout.layout_difference`).

        Raises
        ------
        UpdateRejected
            If the object is shorter than its header says, or has changed.
        """
        for span in _spans(self.index, order, start, start + len(buffer)):
            offset = self.base + span.offset
            if len(span.pieces) == 1:
                self.source.read_into(offset, buffer[span.pieces[0][1] :][: span.length])
                continue
            scratch = np.empty(span.length, np.uint8).data
            self.source.read_into(offset, scratch)
            for begin, place, length in span.pieces:
                buffer[place : place + length] = scratch[begin : begin + length]


@lru_cache(maxsize=8)
def _spans(index: TensorIndex, order: TensorLayout, start: int, stop: int) -> tuple[Span, ...]:
    """Return the reads for bytes ``start`` to ``stop`` of the flattened model.

    Small tensors that lie near each other are read together, in whichever order the object holds
    them. The result is cached, because all updates of a round need the same chunk.
    """
    spans: list[list[Extent]] = []
    for extent in sorted(_extents_between(index, order, start, stop), key=lambda e: e.offset):
        if spans and _is_near(spans[-1], extent):
            spans[-1].append(extent)
        else:
            spans.append([extent])
    return tuple(_span(extents, start) for extents in spans)


def _is_near(span: list[Extent], extent: Extent) -> bool:
    first, last = span[0], span[-1]
    gap = extent.offset - (last.offset + last.stop - last.start)
    length = extent.offset + extent.stop - extent.start - first.offset
    return 0 <= gap <= MAX_GAP_BYTES and length <= MAX_SPAN_BYTES


def _span(extents: list[Extent], start: int) -> Span:
    first, last = extents[0], extents[-1]
    return Span(
        offset=first.offset,
        length=last.offset + last.stop - last.start - first.offset,
        pieces=tuple((e.offset - first.offset, e.start - start, e.stop - e.start) for e in extents),
    )


def _extents_between(
    index: TensorIndex, order: TensorLayout, start: int, stop: int
) -> Iterator[Extent]:
    """Yield the parts of the extents within bytes ``start`` to ``stop`` of the flattened model."""
    extents = _extents(index, order)
    first = bisect_right(extents, start, key=lambda extent: extent.stop)
    for extent in extents[first:]:
        if extent.start >= stop:
            return
        begin = max(extent.start, start)
        yield Extent(begin, min(extent.stop, stop), extent.offset + begin - extent.start)


@lru_cache(maxsize=8)
def _extents(index: TensorIndex, order: TensorLayout) -> tuple[Extent, ...]:
    """Return the byte ranges of the flattened model, joined where the object holds them together."""
    offset_by_name = dict(zip(index.layout.by_name, index.offsets, strict=True))
    extents: list[Extent] = []
    start = 0
    for tensor in order.tensors:
        offset = offset_by_name[tensor.name]
        stop = start + tensor.nbytes
        if start == stop:
            continue
        last = extents[-1] if extents else None
        if last and last.offset + last.stop - last.start == offset:
            extents[-1] = Extent(last.start, stop, last.offset)
        else:
            extents.append(Extent(start, stop, offset))
        start = stop
    return tuple(extents)


def read_tensors(weights: Weights) -> dict[str, NDArray[np.generic]]:
    """Return all tensors of one object, in memory, by name.

    For objects known to be small enough; a round never calls this.
    """
    arrays = {}
    for tensor, offset in zip(weights.layout.tensors, weights.index.offsets, strict=True):
        array = np.empty(tensor.shape, tensor.dtype)
        if array.nbytes:
            place = array.reshape(-1).view(np.uint8).data
            weights.source.read_into(weights.base + offset, place)
        arrays[tensor.name] = array
    return arrays
