"""Arguments of rules and requirements: checked when they are given, and named if they do not fit."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

from aggregation.errors import RuleError

T = TypeVar("T")

_NOTATION = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*")


def parse_notation(text: object) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the arguments of a notation such as ``krum(f=2)``; None if it is none.

    Raises
    ------
    RuleError
        If an argument is not written as ``f=2``, or is given twice.
    """
    found = _NOTATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    arguments: dict[str, Any] = {}
    for each in (found[2] or "").split(","):
        if not each.strip():
            continue
        name, value = _argument(each)
        if name in arguments:
            raise RuleError(f"the argument {name!r} is given twice in {text!r}")
        arguments[name] = value
    return found[1], arguments


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise RuleError(f"an argument is written as f=2; got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def instantiate(kind: type[T], name: str, arguments: Mapping[str, Any]) -> T:
    """Return ``kind(**arguments)``; numbers of numpy become Python's.

    Raises
    ------
    RuleError
        If an argument is unknown, missing or out of range; the message says what is expected.
    """
    if not isinstance(arguments, Mapping):
        raise RuleError(f"{name} takes its arguments by name, as a mapping; got {arguments!r}")
    try:
        inspect.signature(kind).bind(**arguments)
        return kind(**{argument: _plain(value) for argument, value in arguments.items()})
    except TypeError as error:
        names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        expected = f"the arguments {', '.join(names)}" if names else "no arguments"
        raise RuleError(f"{name} takes {expected}; got {dict(arguments)!r} ({error})") from error
    except RuleError as error:
        raise RuleError(f"{name}: {error}") from error


def whole_number(name: str, value: object, at_least: int) -> None:
    """Raise `RuleError` unless the value is an integer of at least ``at_least``."""
    if type(value) is not int or value < at_least:
        raise RuleError(f"{name} must be a whole number, at least {at_least}; got {value!r}")


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> None:
    """Raise `RuleError` unless the value is a finite number within the bounds.

    ``above`` and ``below`` are exclusive; ``at_least`` and ``at_most`` are inclusive.
    """
    if (
        type(value) in (int, float)
        and above < value < below  # type: ignore[operator]
        and at_least <= value <= at_most  # type: ignore[operator]
        and _fits_float64(value)
    ):
        return
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    stated = [f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound)]
    expected = "a finite number" + (", " if stated else "") + " and ".join(stated)
    raise RuleError(f"{name} must be {expected}; got {value!r}")


def _fits_float64(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _plain(value: Any) -> Any:
    """Return the number as an int or a float, as numpy's scalars are not; other values unchanged."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value
