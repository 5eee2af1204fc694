"""Parse numbers on the command line within limits: values for ``type`` of argparse."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable


def whole_number(at_least: int, at_most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers, which may be written as 25e6."""

    def parse(text: str) -> int:
        value = _number(text)
        if not (at_least <= value <= at_most and value == int(value)):
            raise ArgumentTypeError(
                f"{text} given, expected a whole number from {at_least} to {at_most:.6g}"
            )
        return int(value)

    return parse


def positive_number(at_most: float) -> Callable[[str], float]:
    """Return a parser of numbers above zero."""

    def parse(text: str) -> float:
        value = _number(text)
        if not 0 < value <= at_most:
            raise ArgumentTypeError(f"{text} given, expected a number above 0, at most {at_most:g}")
        return value

    return parse


def nonnegative_number(at_most: float) -> Callable[[str], float]:
    """Return a parser of numbers that are not negative."""

    def parse(text: str) -> float:
        value = _number(text)
        if not 0 <= value <= at_most:
            raise ArgumentTypeError(f"{text} given, expected a number from 0 to {at_most:g}")
        return value

    return parse


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r} given, expected a number such as 25e6")
    return value
