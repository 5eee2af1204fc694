"""Text between the brackets of a JSON list, converted to numbers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import quoted
from ...layout import DTYPE_NAMES, is_integral

_FLOAT64 = np.dtype("<f8")
_FOREIGN = re.compile(rb"[^0-9eE+\-., \t\r\n]")
_TOO_LONG = re.compile(rb"[0-9]{4301}")  # Python converts integers of up to 4300 digits
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


def parse_numbers(text: bytes, dtype: np.dtype) -> NDArray[Any]:
    """Convert numbers separated by commas to an array of ``dtype``.

    Raises
    ------
    ValueError
        If the text is not numbers, or a number is out of the range of ``dtype``.
    """
    try:
        numbers = json.loads(f"[{text.decode('ascii')}]", parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(describe_text(text)) from error
    kinds = set(map(type, numbers))
    if not kinds <= {int, float}:
        raise ValueError(describe_text(text))
    if is_integral(dtype) and float in kinds:
        raise ValueError(f"a number with a fraction, the model's are {DTYPE_NAMES[dtype]}")
    out_of_range = f"a number is out of range of {DTYPE_NAMES[dtype]}"
    if dtype == np.bool_ and not set(numbers) <= {0, 1}:
        raise ValueError(out_of_range)
    try:
        values = np.array(numbers, dtype if is_integral(dtype) else _FLOAT64)
    except OverflowError:
        raise ValueError(out_of_range) from None
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    if not is_integral(dtype) and not np.isfinite(values).all():
        raise ValueError(out_of_range)
    return values


def _reject_constant(constant: str) -> None:
    raise ValueError(constant)


def describe_text(text: bytes) -> str:
    """Return what was found where numbers and commas were expected."""
    foreign = _FOREIGN.search(text)
    if not foreign and _TOO_LONG.search(text):
        return "a number of more than 4300 digits"
    if not foreign:
        return f"expected numbers, found {quoted(text.decode('ascii'))}"
    if foreign[0] >= b"\x80":
        return "expected numbers, found text that is not ASCII"
    shown = quoted(text[foreign.start() :].decode("latin-1"))
    return f"expected numbers, found {_KINDS.get(foreign[0], shown)}"
