"""The interface of encoders, which write a weights object piece by piece as its values arrive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Protocol

from ..layout import Tensor, TensorLayout

Piece = bytes | memoryview


class Encoder(Protocol):
    """Converts the flattened model to the bytes of a format.

    The joined pieces are a function of layout and values only. They do not depend on how the values were
    cut, on whether a second encoder continued from the `state` of the first, or on the clock.

    An encoder is created before the values are computed, and raises `AggregationError` then if the result
    could not be read back.
    """

    def header(self) -> bytes:
        """Return the bytes before the first value."""

    def encode(self, start_byte: int, data: memoryview) -> Iterator[Piece]:
        """Yield the bytes for ``data``, a range of the flattened model that begins at ``start_byte``.

        Calls follow one another without a gap and end between elements. The iterator must be exhausted
        before the next call of any method.
        """

    def footer(self) -> bytes:
        """Return the bytes after the last value."""

    def state(self) -> dict[str, Any]:
        """Return JSON-able data with which another encoder continues after the last `encode`."""


class ValuesEncoder:
    """Writes the values alone, for a result that stays in memory.

    Parameters
    ----------
    state : mapping, optional
        The state of an encoder to continue.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._position: int = state["position"] if state else 0

    def header(self) -> bytes:
        return b""

    def encode(self, start_byte: int, data: memoryview) -> Iterator[memoryview]:
        if start_byte != self._position:
            raise ValueError(f"bytes from {start_byte} given, those from {self._position} are next")
        yield data
        self._position += len(data)

    def footer(self) -> bytes:
        return b""

    def state(self) -> dict[str, Any]:
        return {"position": self._position}


class TensorEncoder(ABC):
    """An encoder for formats that have bytes before and after the values of each tensor.

    Parameters
    ----------
    layout : TensorLayout
        Of the weights that will be written.
    state : mapping, optional
        The state of an encoder to continue from.
    """

    def __init__(self, layout: TensorLayout, state: Mapping[str, Any] | None = None) -> None:
        self._tensors = layout.tensors
        self._ends = tuple(accumulate(tensor.nbytes for tensor in layout.tensors))
        self._position: int = state["position"] if state else 0
        self._done: int = state["done"] if state else 0

    def header(self) -> bytes:
        return b""

    def encode(self, start_byte: int, data: memoryview) -> Iterator[Piece]:
        if start_byte != self._position:
            raise ValueError(f"bytes from {start_byte} given, those from {self._position} are next")
        while data:
            current = bisect_right(self._ends, self._position)
            yield from self._empty_tensors(current)
            end = self._ends[current]
            tensor = self._tensors[current]
            if self._position == end - tensor.nbytes:
                yield self._begin(current, tensor)
            piece = data[: end - self._position]
            yield from self._values(tensor, self._position + tensor.nbytes - end, piece)
            self._position += len(piece)
            if self._position == end:
                yield self._end(current, tensor)
                self._done += 1
            data = data[len(piece) :]

    def footer(self) -> bytes:
        return b"".join(self._empty_tensors(len(self._tensors)))

    def state(self) -> dict[str, Any]:
        return {"position": self._position, "done": self._done}

    def _empty_tensors(self, until: int) -> Iterator[Piece]:
        """Yield the bytes of tensors without elements, directly before the next tensor with elements."""
        for number in range(self._done, until):
            yield self._begin(number, self._tensors[number])
            yield self._end(number, self._tensors[number])
            self._done += 1

    @abstractmethod
    def _begin(self, number: int, tensor: Tensor) -> bytes:
        """Return the bytes before the values of a tensor."""

    @abstractmethod
    def _values(self, tensor: Tensor, start: int, data: memoryview) -> Iterator[Piece]:
        """Yield the bytes for values of a tensor that begin at its byte ``start``."""

    @abstractmethod
    def _end(self, number: int, tensor: Tensor) -> bytes:
        """Return the bytes after the values of a tensor."""
