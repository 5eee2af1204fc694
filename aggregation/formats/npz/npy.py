"""The header of a .npy file, which tells dtype, order and shape of the array behind it.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The header is a
Python literal. It is matched, not evaluated: what a stranger wrote never reaches Python's parser.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from ...errors import UpdateRejected, quoted
from ...layout import BFLOAT16, DTYPES, Tensor, is_indexable

MAGIC = b"\x93NUMPY"

#: Where the text begins, by magic and version.
_STARTS = {MAGIC + b"\1\0": 10, MAGIC + b"\2\0": 12, MAGIC + b"\3\0": 12}

#: Longest header that is read; one of 64 dimensions takes less than half of it.
MAX_HEADER_BYTES = 2048

_ALIGNMENT = 64  # of the data, as numpy writes them

_HEADER = re.compile(
    rb"\s*\{\s*'descr'\s*:\s*(?P<descr>'[^']*'|\[.*\])\s*,"
    rb"\s*'fortran_order'\s*:\s*(?P<fortran>True|False)\s*,"
    rb"\s*'shape'\s*:\s*\((?P<shape>[0-9, ]*)\)\s*,?\s*\}\s*",
    re.DOTALL,
)
_SHAPE = re.compile(rb" *(?:(?:[0-9]{1,18} *, *)+(?:[0-9]{1,18} *)?)?")


class Header(NamedTuple):
    """What a .npy header says.

    Parameters
    ----------
    dtype : dtype
        As a tensor has it: little-endian.
    shape : tuple of int
    fortran : bool
        Whether the first index runs fastest.
    swapped : bool
        Whether the values are big-endian.
    length : int
        Bytes of the header, from the magic on.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    swapped: bool
    length: int


def _descriptions() -> dict[bytes, tuple[np.dtype, bool]]:
    """What each text that may stand for a dtype means, and whether it is big-endian.

    numpy writes bfloat16, which it knows as raw data of two bytes, as V2.
    """
    known = {b"<V2": (BFLOAT16, False), b"|V2": (BFLOAT16, False)}
    for dtype in DTYPES.values():
        if dtype != BFLOAT16:
            known[dtype.newbyteorder(">").str.encode()] = dtype, True
            known[dtype.str.encode()] = dtype, False
    return known


_DESCRIPTIONS = _descriptions()


def header_bytes(data: memoryview) -> int:
    """Length of the header with which ``data`` begin.

    Raises
    ------
    UpdateRejected
        If there is none, or not all of it, or it is longer than `MAX_HEADER_BYTES`.
    """
    start = _STARTS.get(bytes(data[:8]))
    if not start:
        raise UpdateRejected("it is not an array in npy format")
    length = start + int.from_bytes(data[8:start], "little")
    if length > MAX_HEADER_BYTES:
        raise UpdateRejected(f"npy header of {length} bytes, at most {MAX_HEADER_BYTES} are read")
    if length > len(data):
        raise UpdateRejected("its npy header is cut off")
    return length


def parse_header(header: bytes) -> Header:
    """The contents of a whole header.

    Raises
    ------
    UpdateRejected
        If it does not describe an array of a dtype that weights may have.
    """
    text = header[_STARTS[header[:8]] :]
    match = _HEADER.fullmatch(text)
    if not match:
        raise UpdateRejected(f"npy header {quoted(text.decode('latin-1'))} is not understood")
    descr = match["descr"].strip(b"'")
    if descr not in _DESCRIPTIONS:
        raise UpdateRejected(_why_not(descr))
    dtype, swapped = _DESCRIPTIONS[descr]
    return Header(dtype, _shape(match["shape"]), match["fortran"] == b"True", swapped, len(header))


def _why_not(descr: bytes) -> str:
    if b"O" in descr:
        return "it holds pickled Python objects, which are never loaded"
    return f"dtype {quoted(descr.decode('latin-1'))}, expected one of {', '.join(DTYPES)}"


def _shape(text: bytes) -> tuple[int, ...]:
    if _SHAPE.fullmatch(text):
        shape = tuple(int(size) for size in text.split(b",") if size.strip())
        if is_indexable(shape):
            return shape
    raise UpdateRejected(f"npy shape {quoted(text.decode('latin-1'))} is not one of an array")


def encode_header(tensor: Tensor) -> bytes:
    """The header that `numpy.save` writes, but without room for a first axis that grows."""
    descr = "|V2" if tensor.dtype == BFLOAT16 else tensor.dtype.str
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {tensor.shape}, }}"
    length = math.ceil((len(MAGIC) + 4 + len(text) + 1) / _ALIGNMENT) * _ALIGNMENT
    text = text.ljust(length - len(MAGIC) - 5) + "\n"
    return MAGIC + b"\1\0" + len(text).to_bytes(2, "little") + text.encode()
