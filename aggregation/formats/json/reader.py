"""JSON text: a list of layers, each a regular nested list of numbers, as older clients send it.

A bare number is a tensor of zero dimensions, an empty list one of zero elements. The text is read
in blocks and its numbers leave as they come: all at once, as Python objects, they would take up to
twenty times the memory of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum, auto
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregation.errors import UpdateRejected, quoted
from aggregation.formats.spool import NeedsSpool, Spool
from aggregation.layout import DTYPE_NAMES, MAX_DIMENSIONS, Tensor, TensorLayout, layout_difference
from aggregation.sources import ByteSource, read
from aggregation.weights import Weights, shared_index

#: Longest text that is read.
MAX_JSON_BYTES = 16 << 20

#: Most layers that are read of a text whose model is not known.
MAX_LAYERS = 20_000

#: Most lists that are read; each costs some microseconds, which a layer of lists of one number would
#: make a minute of. Numbers of full precision, one to a list, stay below it up to `MAX_JSON_BYTES`.
MAX_LISTS = 1 << 20

#: Longest number. Python refuses to read an integer of more than 4300 digits.
MAX_NUMBER_BYTES = 8192

#: Text read at once, and text turned into numbers at once.
BLOCK_BYTES = 64 << 10

_FLOAT64 = np.dtype("<f8")
_BRACKETS = re.compile(rb"[\[\]]")
_OPENING = ord("[")
_BLANKS = b" \t\r\n"
_FOREIGN = re.compile(rb"[^0-9eE+\-., \t\r\n]")
_TOO_LONG = re.compile(rb"[0-9]{4301}")
_KINDS = {
    b"{": "an object",
    b"}": "an object",
    b":": "an object",
    b'"': "a string",
    b"t": "true",
    b"f": "false",
    b"n": "null",
    b"N": "NaN",
    b"I": "Infinity",
}


def peek_json(
    source: ByteSource, expected_layout: TensorLayout | None = None, max_bytes: int = MAX_JSON_BYTES
) -> TensorLayout:
    """The layout of a JSON text, all of which is read and checked.

    Parameters
    ----------
    source : ByteSource
        The bytes of the text.
    expected_layout : TensorLayout, optional
        Whose dtypes the layers have, by position; float64 without.
    max_bytes : int
        Longest text that is read.

    Raises
    ------
    UpdateRejected
        If the text is longer than ``max_bytes``, is not a list of regular nested lists of numbers,
        or has a number that is out of range of its dtype.
    """
    return _read(source, expected_layout, max_bytes, lambda values: None)


def open_json(
    source: ByteSource,
    spool: Spool | None,
    expected_layout: TensorLayout | None = None,
    max_bytes: int = MAX_JSON_BYTES,
) -> Weights:
    """Turn JSON text into tensors on disk. Arguments and errors are those of `peek_json`.

    Raises
    ------
    NeedsSpool
        If there is no spool. Text that has a model's layout to follow is not read for that.
    SpoolFull
        If they do not fit on disk along with what is there already.
    """
    if spool is None:
        _check_size(source, max_bytes)
        layout = expected_layout or peek_json(source, expected_layout, max_bytes)
        raise NeedsSpool(layout, layout.nbytes, is_text=True)
    with spool.new_file() as file:

        def write(values: bytes) -> None:
            if expected_layout and file.size + len(values) > expected_layout.nbytes:
                raise UpdateRejected("JSON text has more numbers than the model")
            file.write(values)

        layout = _read(source, expected_layout, max_bytes, write)
        difference = layout_difference(expected_layout, layout) if expected_layout else None
        if difference:
            raise UpdateRejected(difference)
        offsets = accumulate((tensor.nbytes for tensor in layout.tensors), initial=0)
        index = shared_index(layout, tuple(offsets)[:-1])
        return Weights(index=index, source=file.source(), format="json")


def _read(
    source: ByteSource,
    expected_layout: TensorLayout | None,
    max_bytes: int,
    write: Callable[[bytes], object],
) -> TensorLayout:
    _check_size(source, max_bytes)
    parser = LayersParser(expected_layout, write)
    for offset in range(0, source.size, BLOCK_BYTES):
        parser.feed(read(source, offset, BLOCK_BYTES))
    return parser.finish()


def _check_size(source: ByteSource, max_bytes: int) -> None:
    if source.size > max_bytes:
        raise UpdateRejected(f"JSON text of {source.size} bytes, at most {max_bytes} are read")


class _Expected(Enum):
    """What may come next."""

    VALUE = auto()
    VALUE_OR_END = auto()
    COMMA_OR_END = auto()


class LayersParser:
    """Takes the text block by block and gives away the values of its layers as they come.

    Parameters
    ----------
    expected_layout : TensorLayout, optional
        See `peek_json`.
    write : callable
        Told the bytes of the values.
    """

    def __init__(
        self, expected_layout: TensorLayout | None, write: Callable[[bytes], object]
    ) -> None:
        self._like = expected_layout.tensors if expected_layout else None
        self._write = write
        self._layers: list[Tensor] = []
        self._rest = b""
        self._lists = 0
        self._expected = _Expected.VALUE
        #: Elements so far of each list that is open, the outermost first.
        self._counts: list[int] = []
        #: Elements of a list of the current layer, by depth; None while the first one is open.
        self._lengths: list[int | None] = []
        #: Whether numbers have been seen in the current layer, so that it gets no deeper.
        self._has_numbers = False
        #: Text of numbers of the current layer.
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def feed(self, block: bytes) -> None:
        """Take the next block."""
        text = self._rest + block
        start = 0
        for match in _BRACKETS.finditer(text):
            place = match.start()
            self._take(text[start:place])
            if text[place] == _OPENING:
                self._open()
            else:
                self._close()
            start = place + 1
        cut = max(start, text.rfind(b",", start) + 1)
        self._take(text[start:cut])
        self._rest = text[cut:].lstrip(_BLANKS)
        if len(self._rest) > MAX_NUMBER_BYTES:
            raise self._rejected(_what_is_wrong(self._rest))

    def finish(self) -> TensorLayout:
        """The layout, once all text has been taken."""
        self._take(self._rest)
        if self._counts or self._expected is _Expected.VALUE:
            raise UpdateRejected("JSON text ends before its list of layers does")
        return TensorLayout(tuple(self._layers), named=False)

    def _take(self, text: bytes) -> None:
        """Take what stands between two brackets: numbers and commas."""
        text = text.strip(_BLANKS)
        if not text:
            return
        if not self._counts:
            raise UpdateRejected(f"JSON text is not one list of layers: {_what_is_wrong(text)}")
        if self._expected is _Expected.COMMA_OR_END:
            if text[:1] != b",":
                raise self._rejected(_what_is_wrong(text))
            text = text[1:].lstrip(_BLANKS)
            self._expected = _Expected.VALUE
        if text:
            self._numbers(text.removesuffix(b","))
            ends_in_comma = text.endswith(b",")
            self._expected = _Expected.VALUE if ends_in_comma else _Expected.COMMA_OR_END

    def _open(self) -> None:
        depth = len(self._counts)
        if self._expected is _Expected.COMMA_OR_END:
            self._flush()  # which says so if what stands there is not a number
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
        if self._lists > MAX_LISTS:
            raise UpdateRejected(f"JSON text has more than {MAX_LISTS} lists")
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
            values = _values(b",".join(self._pending), self._dtype)
        except ValueError as error:
            raise self._rejected(str(error)) from error
        self._write(values.tobytes())
        self._pending.clear()
        self._pending_bytes = 0

    def _begin_layer(self) -> None:
        limit = MAX_LAYERS if self._like is None else len(self._like)
        if len(self._layers) == limit:
            raise UpdateRejected(f"JSON text has more than {limit} layers")
        self._lengths = []
        self._has_numbers = False

    def _end_layer(self) -> None:
        self._flush()
        number = len(self._layers)
        shape = tuple(length or 0 for length in self._lengths)
        if self._like and 0 in shape:
            shape = _completed(shape, self._like[number].shape)
        self._layers.append(Tensor(str(number), self._dtype, shape))

    @property
    def _dtype(self) -> np.dtype:
        return self._like[len(self._layers)].dtype if self._like else _FLOAT64

    def _rejected(self, problem: str) -> UpdateRejected:
        return UpdateRejected(f"JSON layer {len(self._layers)}: {problem}")


def _completed(shape: tuple[int, ...], model: tuple[int, ...]) -> tuple[int, ...]:
    """The model's shape for an empty layer that agrees with it as far as text can: of shape (0, 3)
    nothing is left but an empty list."""
    return model if model[: len(shape)] == shape else shape


def _values(text: bytes, dtype: np.dtype) -> NDArray[Any]:
    """Numbers between commas, as ``dtype``.

    Raises
    ------
    ValueError
        If they are not numbers, or do not fit.
    """
    try:
        numbers = json.loads(f"[{text.decode('ascii')}]", parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(_what_is_wrong(text)) from error
    kinds = set(map(type, numbers))
    if not kinds <= {int, float}:
        raise ValueError(_what_is_wrong(text))
    if dtype.kind in "iu" and float in kinds:
        raise ValueError(f"a number with a fraction, the model's are {DTYPE_NAMES[dtype]}")
    try:
        values = np.array(numbers, dtype if dtype.kind in "iu" else _FLOAT64)
    except OverflowError:
        raise ValueError(f"a number is out of range of {DTYPE_NAMES[dtype]}") from None
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    if dtype.kind not in "iu" and not np.isfinite(values).all():
        raise ValueError(f"a number is out of range of {DTYPE_NAMES[dtype]}")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _what_is_wrong(text: bytes) -> str:
    """What text that should be numbers and commas is instead."""
    foreign = _FOREIGN.search(text)
    if not foreign and _TOO_LONG.search(text):
        return "a number of more than 4300 digits"
    if not foreign:
        return f"expected numbers, found {quoted(text.decode('ascii'))}"
    if foreign[0] >= b"\x80":
        return "expected numbers, found text that is not ASCII"
    shown = quoted(text[foreign.start() :].decode("latin-1"))
    return f"expected numbers, found {_KINDS.get(foreign[0], shown)}"
