"""A parser for JSON lists of layers that takes text in blocks and passes values on as they come.

All numbers at once, as Python objects, would take up to twenty times the memory of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto

import numpy as np

from ...errors import UpdateRejected
from ...layout import MAX_DIMENSIONS, Tensor, TensorLayout, layer_name
from ..limits import Limits
from .values import describe_text, parse_numbers

#: The longest number. Python refuses to read an integer of more than 4300 digits.
MAX_NUMBER_BYTES = 8192

#: How much text is converted to numbers at once.
BLOCK_BYTES = 64 << 10

_FLOAT64 = np.dtype("<f8")
_BRACKETS = re.compile(rb"[\[\]]")
_OPENING = ord("[")
_BLANKS = b" \t\r\n"


class _Expected(Enum):
    """What may come next in the text."""

    VALUE = auto()
    VALUE_OR_END = auto()
    COMMA_OR_END = auto()


class LayersParser:
    """Parses the text of a list of layers, block by block.

    Parameters
    ----------
    expected_layout : TensorLayout, optional
        The model's layout, whose layers are numbered. Gives each layer its dtype; float64 without it.
    limits : Limits
        Those of layers and lists.
    write : callable
        Called with the bytes of the values, in order.
    """

    def __init__(
        self,
        expected_layout: TensorLayout | None,
        limits: Limits,
        write: Callable[[bytes], object],
    ) -> None:
        self._model = expected_layout
        self._max_layers = len(expected_layout.tensors) if expected_layout else limits.json_layers
        self._max_lists = limits.json_lists
        self._write = write
        self._layers: list[Tensor] = []
        self._rest = b""
        self._lists = 0
        self._expected = _Expected.VALUE
        #: How many elements each open list has so far, the outermost list first.
        self._counts: list[int] = []
        #: The length of the lists of the current layer by depth; None while the first one is open.
        self._lengths: list[int | None] = []
        #: Whether the current layer has numbers already, so that it cannot get deeper.
        self._has_numbers = False
        #: Text of numbers of the current layer that are not converted yet.
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def feed(self, block: bytes) -> None:
        """Parse the next block of text."""
        text = self._rest + block
        start = 0
        for match in _BRACKETS.finditer(text):
            position = match.start()
            self._take(text[start:position])
            if text[position] == _OPENING:
                self._open()
            else:
                self._close()
            start = position + 1
        cut = max(start, text.rfind(b",", start) + 1)
        self._take(text[start:cut])
        self._rest = text[cut:].lstrip(_BLANKS)
        if len(self._rest) > MAX_NUMBER_BYTES:
            raise self._rejected(describe_text(self._rest))

    def finish(self) -> TensorLayout:
        """Return the layout, after all text has been fed."""
        self._take(self._rest)
        if self._counts or self._expected is _Expected.VALUE:
            raise UpdateRejected("JSON text ends before its list of layers does")
        return TensorLayout(tuple(self._layers))

    def _take(self, text: bytes) -> None:
        """Parse the text between two brackets: numbers and commas."""
        text = text.strip(_BLANKS)
        if not text:
            return
        if not self._counts:
            raise UpdateRejected(f"JSON text is not one list of layers: {describe_text(text)}")
        if self._expected is _Expected.COMMA_OR_END:
            if text[:1] != b",":
                raise self._rejected(describe_text(text))
            text = text[1:].lstrip(_BLANKS)
            self._expected = _Expected.VALUE
        if text:
            self._numbers(text.removesuffix(b","))
            ends_in_comma = text.endswith(b",")
            self._expected = _Expected.VALUE if ends_in_comma else _Expected.COMMA_OR_END

    def _open(self) -> None:
        depth = len(self._counts)
        if self._expected is _Expected.COMMA_OR_END:
            self._flush()  # raises if the text before this bracket is not numbers
            raise self._rejected("a comma is missing before a list")
        if depth > MAX_DIMENSIONS:
            raise self._rejected(f"lists nested deeper than {MAX_DIMENSIONS}")
        if depth == 1:
            self._begin_layer()
        if depth > len(self._lengths):
            if self._has_numbers:
                raise self._rejected("ragged, a list beside numbers")
            self._lengths.append(None)
        self._lists += 1
        if self._lists > self._max_lists:
            raise UpdateRejected(f"JSON text has more than {self._max_lists} lists")
        self._counts.append(0)
        self._expected = _Expected.VALUE_OR_END

    def _close(self) -> None:
        if not self._counts or self._expected is _Expected.VALUE:
            raise self._rejected("a list ends where a number is missing")
        count = self._counts.pop()
        depth = len(self._counts)
        if depth:
            expected = self._lengths[depth - 1]
            if expected is not None and expected != count:
                raise self._rejected(f"ragged, a list of {count} beside one of {expected}")
            self._lengths[depth - 1] = count
            self._counts[-1] += 1
        if depth == 1:
            self._end_layer()
        self._expected = _Expected.COMMA_OR_END

    def _numbers(self, text: bytes) -> None:
        depth = len(self._counts)
        if depth == 1:
            for number in text.split(b","):
                self._begin_layer()
                self._add(number)
                self._end_layer()
                self._counts[0] += 1
            return
        if depth <= len(self._lengths):
            raise self._rejected("ragged, numbers beside a list")
        self._has_numbers = True
        self._counts[-1] += text.count(b",") + 1
        self._add(text)

    def _add(self, text: bytes) -> None:
        if not text.strip(_BLANKS):
            raise self._rejected("a number is missing beside a comma")
        self._pending.append(text)
        self._pending_bytes += len(text)
        if self._pending_bytes >= BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        try:
            values = parse_numbers(b",".join(self._pending), self._dtype)
        except ValueError as error:
            raise self._rejected(str(error)) from error
        self._write(values.tobytes())
        self._pending.clear()
        self._pending_bytes = 0

    def _begin_layer(self) -> None:
        if len(self._layers) == self._max_layers:
            raise UpdateRejected(f"JSON text has more than {self._max_layers} layers")
        self._lengths = []
        self._has_numbers = False

    def _end_layer(self) -> None:
        self._flush()
        name = layer_name(len(self._layers))
        shape = tuple(length or 0 for length in self._lengths)
        if self._model and 0 in shape:
            shape = _completed(shape, self._model.by_name[name].shape)
        self._layers.append(Tensor(name, self._dtype, shape))

    @property
    def _dtype(self) -> np.dtype:
        if self._model is None:
            return _FLOAT64
        return self._model.by_name[layer_name(len(self._layers))].dtype

    def _rejected(self, problem: str) -> UpdateRejected:
        return UpdateRejected(f"JSON layer {len(self._layers)}: {problem}")


def _completed(shape: tuple[int, ...], model: tuple[int, ...]) -> tuple[int, ...]:
    """Return the model's shape for an empty layer if it agrees as far as the text goes.

    JSON text cannot express the dimensions after a zero: of shape (0, 3) only an empty list remains.
    """
    return model if model[: len(shape)] == shape else shape
