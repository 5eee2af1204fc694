"""Numbers as they are typed, within limits; what argparse takes as a ``type``."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable


def whole(at_least: int, at_most: int) -> Callable[[str], int]:
    """Reads a whole number, which may be written as 25e6."""

    def read(text: str) -> int:
        value = _number(text)
        if not (at_least <= value <= at_most and value == int(value)):
            raise ArgumentTypeError(
                f"{text} given, expected a whole number from {at_least} to {at_most:.6g}"
            )
        return int(value)

    return read


def above_zero(at_most: float) -> Callable[[str], float]:
    """Reads a number above zero."""

    def read(text: str) -> float:
        value = _number(text)
        if not 0 < value <= at_most:
            raise ArgumentTypeError(f"{text} given, expected a number above 0, at most {at_most:g}")
        return value

    return read


def zero_or_more(at_most: float) -> Callable[[str], float]:
    """Reads a number that is not negative."""

    def read(text: str) -> float:
        value = _number(text)
        if not 0 <= value <= at_most:
            raise ArgumentTypeError(f"{text} given, expected a number from 0 to {at_most:g}")
        return value

    return read


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r} given, expected a number such as 25e6")
    return value
