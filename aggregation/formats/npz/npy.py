"""The header of a .npy file, which describes dtype, order and shape of the array after it.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The header is a Python
literal. It is matched, not evaluated: text of a client never reaches Python's parser.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from ...errors import UpdateRejected, quoted
from ...layout import BFLOAT16, DTYPES, Tensor, is_indexable

MAGIC = b"\x93NUMPY"

#: The first byte of the text, by magic and version.
_STARTS = {MAGIC + b"\1\0": 10, MAGIC + b"\2\0": 12, MAGIC + b"\3\0": 12}

#: The longest header. numpy reads a text of up to 10,000 bytes.
MAX_HEADER_BYTES = 12 + 10_000

_ALIGNMENT = 64  # of the data, as numpy writes them

_ITEM = re.compile(
    rb"\s*(?P<quote>['\"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*"
    rb"(?P<value>'[^'\\]*'|\"[^\"\\]*\"|True|False|\([0-9L,\s]*\)|\[.*\])\s*(?:,\s*|(?=\}))",
    re.DOTALL,
)
_SHAPE = re.compile(rb"\s*(?:(?:[0-9]{1,18}L?\s*,\s*)+(?:[0-9]{1,18}L?\s*)?)?")


class Header(NamedTuple):
    """The contents of a .npy header.

    Parameters
    ----------
    dtype : dtype
        The tensor's, which is little-endian.
    shape : tuple of int
    fortran : bool
        Whether the first index varies fastest.
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
    """Return the dtype that each text describes, and whether it is big-endian.

    numpy accepts its names (float32), characters (f) and codes (f4), the latter two with a byte order. It
    writes bfloat16, which it knows as raw data of two bytes, as V2.
    """
    known = {order + b"V2": (BFLOAT16, False) for order in (b"", b"<", b"|")}
    for name, kind in np.sctypeDict.items():
        dtype = np.dtype(kind).newbyteorder("<")
        if not isinstance(name, str) or dtype not in DTYPES.values() or dtype == BFLOAT16:
            continue
        known[name.encode()] = dtype, False
        for code in (dtype.char, f"{dtype.kind}{dtype.itemsize}"):
            for order in ("", "<", "=", "|"):
                known[f"{order}{code}".encode()] = dtype, False
            known[f">{code}".encode()] = dtype, dtype.itemsize > 1
    return known


_DESCRIPTIONS = _descriptions()


def header_bytes(data: memoryview) -> int:
    """Return the length of the header with which ``data`` begin.

    Raises
    ------
    UpdateRejected
        If there is none, it is cut off, or it is longer than `MAX_HEADER_BYTES`.
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
    """Return the contents of a complete header.

    Raises
    ------
    UpdateRejected
        If it does not describe an array of a dtype that weights can have.
    """
    text = header[_STARTS[header[:8]] :]
    items = _parse_items(text)
    if items is None or items["fortran_order"] not in (b"True", b"False"):
        raise UpdateRejected(f"npy header {quoted(text.decode('latin-1'))} is not understood")
    descr = items["descr"].strip(b"'\"")
    if descr not in _DESCRIPTIONS:
        raise UpdateRejected(_describe_dtype(descr))
    dtype, swapped = _DESCRIPTIONS[descr]
    fortran = items["fortran_order"] == b"True"
    return Header(dtype, _parse_shape(items["shape"]), fortran, swapped, len(header))


def _parse_items(text: bytes) -> dict[str, bytes] | None:
    """Return the items of the dictionary, in any order; None if they are not the three expected."""
    text = text.strip()
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return None
    items: dict[str, bytes] = {}
    position = 1
    while match := _ITEM.match(text, position):
        items[match["key"].decode()] = match["value"]
        position = match.end()
        if len(items) == 3:
            break
    return items if len(items) == 3 and position == len(text) - 1 else None


def _describe_dtype(descr: bytes) -> str:
    if b"O" in descr:
        return "it holds pickled Python objects, which are never loaded"
    return f"dtype {quoted(descr.decode('latin-1'))}, expected one of {', '.join(DTYPES)}"


def _parse_shape(text: bytes) -> tuple[int, ...]:
    inner = text.removeprefix(b"(").removesuffix(b")")
    if text.startswith(b"(") and _SHAPE.fullmatch(inner):
        sizes = (size.strip().removesuffix(b"L") for size in inner.split(b","))
        shape = tuple(int(size) for size in sizes if size)
        if is_indexable(shape):
            return shape
    raise UpdateRejected(f"npy shape {quoted(text.decode('latin-1'))} is not one of an array")


def encode_header(tensor: Tensor) -> bytes:
    """Return the header that `numpy.save` writes, without the space for a growing first axis."""
    descr = "|V2" if tensor.dtype == BFLOAT16 else tensor.dtype.str
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {tensor.shape}, }}"
    length = math.ceil((len(MAGIC) + 4 + len(text) + 1) / _ALIGNMENT) * _ALIGNMENT
    text = text.ljust(length - len(MAGIC) - 5) + "\n"
    return MAGIC + b"\1\0" + len(text).to_bytes(2, "little") + text.encode()
