"""A weights object that is open: its layout is known and checked, and its bytes are read by ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from .layout import TensorLayout
from .sources import Buffer, ByteSource, FileSource, OpenFile

#: The most unneeded bytes between two pieces of a chunk that are read in one request. A request to an
#: object store takes as long as the transfer of a megabyte.
MAX_GAP_BYTES = 64 << 10

#: The offset of an optional tensor that the object does not hold.
ABSENT = -1

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
    offsets : sequence of int
        The first byte of each tensor, counted from `Weights.base`, or `ABSENT`. Stored as an array of
        int64, since a model may have 100,000 tensors.
    """

    layout: TensorLayout
    offsets: NDArray[np.int64]

    @cached_property
    def places(self) -> dict[str, int]:
        """The offsets by the names of the tensors."""
        names = (tensor.name for tensor in self.layout.tensors)
        return dict(zip(names, self.offsets.tolist(), strict=True))

    @cached_property
    def is_complete(self) -> bool:
        """Whether the object holds all tensors."""
        return bool((self.offsets != ABSENT).all())

    def in_order(self, order: TensorLayout) -> TensorIndex:
        """Return an index of the same bytes that lists the tensors as in ``order``."""
        return self if self.layout is order else _reordered(self, order)


@lru_cache(maxsize=8)
def _reordered(index: TensorIndex, order: TensorLayout) -> TensorIndex:
    if index.layout == order:
        return TensorIndex(order, index.offsets)
    position = {tensor.name: place for place, tensor in enumerate(index.layout.tensors)}
    # -1, the place of a tensor that is not there, is that of the value appended.
    places = [position.get(tensor.name, -1) for tensor in order.tensors]
    return shared_index(order, np.append(index.offsets, ABSENT)[places])


_shared: WeakValueDictionary[tuple[TensorLayout, bytes], TensorIndex] = WeakValueDictionary()


def shared_index(layout: TensorLayout, offsets: Sequence[int] | NDArray[np.int64]) -> TensorIndex:
    """Return the one index with this content; it exists while anything uses it."""
    array = np.asarray(offsets, np.int64)
    return _shared.setdefault((layout, array.tobytes()), TensorIndex(layout, array))


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

    def offset_of(self, name: str) -> int:
        """Return the first byte of a tensor, counted from `base`."""
        return self.index.places[name]

    def in_order(self, order: TensorLayout) -> Weights:
        """Return the same weights with the tensors listed as in ``order``, which has the same ones.

        Updates that agree with the model then share its layout, however many tensors it has. A tensor
        that the object does not hold is read as zeros.
        """
        index = self.index.in_order(order)
        return self if index is self.index else replace(self, index=index)

    @property
    def held(self) -> NDArray[np.bool_]:
        """Which tensors the object holds."""
        held: NDArray[np.bool_] = self.index.offsets != ABSENT
        return held

    @property
    def is_compressed(self) -> bool:
        """Whether the object holds the elements in fewer bytes than the model."""
        return False

    def nbytes_between(self, first: int, last: int) -> int:
        """Return how many bytes of the object hold the elements ``first`` to ``last`` of the model."""
        return self.layout.bytes_before(last) - self.layout.bytes_before(first)

    @property
    def nbytes(self) -> int:
        """How many bytes of the object hold the elements of the model."""
        return self.nbytes_between(0, self.layout.size)

    def held_open(self, stack: ExitStack) -> Weights:
        """Return the same weights; if they are a file, it stays open until the stack's exit."""
        if not isinstance(self.source, FileSource):
            return self
        return replace(self, source=self.source.held_open(stack))

    def check(self) -> None:
        """Raise `UpdateRejected` if a file that is held open is no longer what it was."""
        if isinstance(self.source, OpenFile):
            self.source.check()

    def read_into(self, order: TensorLayout, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with the bytes of the model, flattened in ``order``, from ``start`` on.

        The layout must agree with ``order`` (`aggregation.layout.layout_difference`).

        Raises
        ------
        UpdateRejected
            If the object is shorter than its header says, or has changed.
        """
        index = self.index.in_order(order)
        if not index.is_complete:
            np.frombuffer(buffer, np.uint8)[:] = 0
        for span in _spans(index, start, start + len(buffer)):
            offset = self.base + span.offset
            if len(span.pieces) == 1:
                whole = span.length == len(buffer)
                target = buffer if whole else buffer[span.pieces[0][1] :][: span.length]
                self.source.read_into(offset, target)
                continue
            scratch = np.empty(span.length, np.uint8).data
            self.source.read_into(offset, scratch)
            for begin, place, length in span.pieces:
                buffer[place : place + length] = scratch[begin : begin + length]


@lru_cache(maxsize=8)
def _spans(index: TensorIndex, start: int, stop: int) -> tuple[Span, ...]:
    """Return the reads for bytes ``start`` to ``stop`` of the flattened model.

    Small tensors that lie near each other are read together, in whichever order the object holds
    them. The result is cached, because all updates of a round need the same chunk.
    """
    spans: list[list[Extent]] = []
    for extent in sorted(_extents_between(index, start, stop), key=lambda e: e.offset):
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


def _extents_between(index: TensorIndex, start: int, stop: int) -> Iterator[Extent]:
    """Yield the parts of the extents within bytes ``start`` to ``stop`` of the flattened model."""
    starts, stops, offsets = _extents(index)
    first = int(np.searchsorted(stops, start, side="right"))
    last = int(np.searchsorted(starts, stop, side="left"))
    extents = zip(*(each[first:last].tolist() for each in (starts, stops, offsets)), strict=True)
    for extent_start, extent_stop, offset in extents:
        begin = max(extent_start, start)
        yield Extent(begin, min(extent_stop, stop), offset + begin - extent_start)


@lru_cache(maxsize=8)
def _extents(index: TensorIndex) -> tuple[NDArray[np.int64], ...]:
    """Return the byte ranges of the flattened model, joined where the object holds them together.

    Returns
    -------
    starts, stops, offsets : (n_extents,) int64
        See `Extent`.
    """
    starts, sizes = _tensor_bytes(index.layout)
    occupied = (sizes > 0) & (index.offsets != ABSENT)
    starts, sizes, offsets = starts[occupied], sizes[occupied], index.offsets[occupied]
    stops = starts + sizes
    is_first = np.ones(len(starts), bool)
    is_first[1:] = (offsets[1:] != offsets[:-1] + sizes[:-1]) | (starts[1:] != stops[:-1])
    is_last = np.append(is_first[1:], True)[: len(starts)]
    return starts[is_first], stops[is_last], offsets[is_first]


@lru_cache(maxsize=2)
def _tensor_bytes(layout: TensorLayout) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first byte of each tensor in the flattened model, and its number of bytes."""
    sizes = np.array([tensor.nbytes for tensor in layout.tensors], np.int64)
    return np.cumsum(sizes) - sizes, sizes


def read_tensors(weights: Weights) -> dict[str, NDArray[np.generic]]:
    """Return the tensors that one object holds, in memory, by name.

    For objects known to be small enough; a round never calls this.
    """
    arrays, start = {}, 0
    for tensor, is_held in zip(weights.layout.tensors, weights.held.tolist(), strict=True):
        if is_held:
            array = np.empty(tensor.shape, tensor.dtype)
            if array.nbytes:
                weights.read_into(weights.layout, start, array.reshape(-1).view(np.uint8).data)
            arrays[tensor.name] = array
        start += tensor.nbytes
    return arrays
