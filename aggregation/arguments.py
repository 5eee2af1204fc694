"""Arguments of rules and requirements: checked when they are given, named when they do not fit."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from aggregation.errors import RuleError

T = TypeVar("T")


def instantiate(kind: type[T], name: str, arguments: Mapping[str, Any]) -> T:
    """``kind(**arguments)``, with a message in the user's terms where they do not fit."""
    if not isinstance(arguments, Mapping):
        raise RuleError(f"{name} takes its arguments by name, as a mapping; got {arguments!r}")
    try:
        inspect.signature(kind).bind(**arguments)
        return kind(**arguments)
    except TypeError as error:
        names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        expected = f"the arguments {', '.join(names)}" if names else "no arguments"
        raise RuleError(f"{name} takes {expected}; got {dict(arguments)!r} ({error})") from error
    except RuleError as error:
        raise RuleError(f"{name}: {error}") from error


def whole_number(name: str, value: object, at_least: int) -> None:
    """Check an argument that counts something."""
    if type(value) is not int or value < at_least:
        raise RuleError(f"{name} must be a whole number, at least {at_least}; got {value!r}")


def number(name: str, value: object, *, above: float, below: float = float("inf")) -> None:
    """Check an argument that measures something, strictly between two bounds."""
    if type(value) not in (int, float) or not above < value < below:  # type: ignore[operator]
        raise RuleError(f"{name} must be a number above {above} and below {below}; got {value!r}")
