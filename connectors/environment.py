"""Variables of the process's environment, read by type; all that are missing or wrong are reported at once.

The libraries for this take 45 ms of each cold start: docs/decisions/2026-11-24-cold-start.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")

FLAGS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}

#: No setting has more digits.
MAX_DIGITS = 30


class Environment:
    """Reads variables, and keeps what is wrong with them until `seal`.

    Each method takes the name of a variable, and a default unless the variable is required.
    """

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text."""
        return self._read(name, default, str, "", "")

    def integer(
        self, name: str, default: int, *, min: int | None = None, max: int | None = None
    ) -> int:
        """Return an integer in decimal or exponential notation, from ``min`` to ``max``."""
        value = self._read(name, default, _integer, 0, "is not an integer")
        if name in self._problems or name not in os.environ:
            return value
        if min is not None and value < min:
            self.refuse(name, f"is less than {min}")
        if max is not None and value > max:
            self.refuse(name, f"is more than {max}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean, in any of the usual spellings."""
        return self._read(name, default, _flag, False, "is neither true nor false")

    def names(self, name: str, default: list[str]) -> list[str]:
        """Return a list of names that are separated by commas."""
        return self._read(name, default, _names, [], "")

    def database_url(self, name: str) -> dict[str, Any]:
        """Return Django's settings for a database, from its URL."""
        return self._read(name, None, _database, {}, "is not the URL of a database")

    def refuse(self, name: str, problem: str) -> None:
        """Record a problem of a variable that is found elsewhere, so that `seal` reports it."""
        self._problems[name] = problem

    def _read(
        self, name: str, default: T | None, convert: Callable[[str], T], empty: T, problem: str
    ) -> T:
        """Return a variable's value; for a wrong one the default, or the empty value of its type."""
        fallback = empty if default is None else default
        text = os.environ.get(name)
        if text is None:
            if default is None:
                self._problems[name] = "is not set"
            return fallback
        try:
            return convert(text)
        except ValueError:
            self._problems[name] = problem
            return fallback

    def seal(self) -> None:
        """Refuse what is missing or wrong.

        Raises
        ------
        ImproperlyConfigured
            The message names each variable and none of their values, which may be secrets.
        """
        if self._problems:
            problems = "; ".join(f"{name} {why}" for name, why in self._problems.items())
            raise ImproperlyConfigured(f"environment variables missing or wrong: {problems}")


def _integer(text: str) -> int:
    """Return an integer in decimal notation, or in the exponential notation of CloudFormation."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError from None
    if not number.is_finite() or number.adjusted() > MAX_DIGITS or number != number.to_integral():
        raise ValueError
    return int(number)


def _flag(text: str) -> bool:
    try:
        return FLAGS[text.lower()]
    except KeyError:
        raise ValueError from None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _database(url: str) -> dict[str, Any]:
    if not url:
        raise ValueError
    return {**dj_database_url.parse(url)}
