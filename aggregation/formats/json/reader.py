"""JSON text: a list of layers, each a regular nested list of numbers, as older clients send it.

A bare number is a tensor of zero dimensions, an empty list one without elements. Layers have numbers
instead of names, so that they belong only to a model whose layers have numbers too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from ...errors import UpdateRejected
from ...layout import TensorLayout, layout_difference, list_difference
from ...sources import ByteSource, read
from ...weights import Weights, shared_index
from ..limits import Limits
from ..spool import NeedsSpool, Spool
from .parser import BLOCK_BYTES, LayersParser

#: How much text is read in one request.
READ_BYTES = 1 << 20


def peek_json(
    source: ByteSource, expected_layout: TensorLayout | None, limits: Limits
) -> TensorLayout:
    """Return the layout of a JSON text, after reading and checking all of it.

    Parameters
    ----------
    source : ByteSource
        The bytes of the text.
    expected_layout : TensorLayout, optional
        The model's layout, which gives each layer its dtype. Without it, layers are float64.
    limits : Limits

    Raises
    ------
    UpdateRejected
        If the text is longer than the limit, is not a list of regular nested lists of numbers, has a
        number that is out of range of its dtype, or if the model's tensors have names.
    """
    return _read(source, expected_layout, limits, lambda values: None)


def open_json(
    source: ByteSource, spool: Spool | None, expected_layout: TensorLayout | None, limits: Limits
) -> Weights:
    """Convert JSON text to tensors on disk. Arguments and errors are those of `peek_json`.

    Raises
    ------
    NeedsSpool
        If there is no spool. The text is read to know its layout only if the model's is not known.
    SpoolFull
        If the tensors do not fit on disk beside what is already there.
    """
    if spool is None:
        _check(source, expected_layout, limits)
        layout = expected_layout or peek_json(source, expected_layout, limits)
        raise NeedsSpool(layout, layout.nbytes, is_text=True)
    with spool.new_file() as file:

        def write(values: bytes) -> None:
            if expected_layout and file.size + len(values) > expected_layout.nbytes:
                raise UpdateRejected("JSON text has more numbers than the model")
            file.write(values)

        layout = _read(source, expected_layout, limits, write)
        difference = layout_difference(expected_layout, layout) if expected_layout else None
        if difference:
            raise UpdateRejected(difference)
        offsets = accumulate((tensor.nbytes for tensor in layout.tensors), initial=0)
        index = shared_index(layout, tuple(offsets)[:-1])
        return Weights(index=index, source=file.source(), format="json")


def _read(
    source: ByteSource,
    expected_layout: TensorLayout | None,
    limits: Limits,
    write: Callable[[bytes], object],
) -> TensorLayout:
    _check(source, expected_layout, limits)
    parser = LayersParser(expected_layout, limits, write)
    for offset in range(0, source.size, READ_BYTES):
        text = read(source, offset, READ_BYTES)
        for start in range(0, len(text), BLOCK_BYTES):
            parser.feed(text[start : start + BLOCK_BYTES])
    return parser.finish()


def _check(source: ByteSource, expected_layout: TensorLayout | None, limits: Limits) -> None:
    if source.size > limits.json_bytes:
        raise UpdateRejected(
            f"JSON text of {source.size} bytes, at most {limits.json_bytes} are read"
        )
    difference = list_difference(expected_layout) if expected_layout else None
    if difference:
        raise UpdateRejected(difference)
