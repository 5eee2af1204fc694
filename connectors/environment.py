"""Variables of the process's environment, read by type; all that are missing or wrong are told at once.

The libraries for this take 45 ms of each cold start: docs/decisions/2026-11-24-cold-start.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

# In the class below, the types' names are its methods'.
Text: TypeAlias = str
Whole: TypeAlias = int
Flag: TypeAlias = bool
Texts: TypeAlias = list[str]

T = TypeVar("T")

FLAGS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}


class Validator(Protocol):
    """What is asked of a value beyond its type."""

    def refusal(self, value: Any) -> str:
        """What is wrong with a value, as the end of a sentence; empty: nothing."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number from ``min`` to ``max``."""

    min: int
    max: int | None = None

    def refusal(self, value: int) -> str:
        if self.min <= value and (self.max is None or value <= self.max):
            return ""
        return f"is less than {self.min}" if value < self.min else f"is more than {self.max}"


@dataclass(frozen=True)
class Regexp:
    """A text that this expression matches from its beginning."""

    expression: str

    def refusal(self, value: str) -> str:
        matched = re.match(self.expression, value)
        return "" if matched else f"is not of the form {self.expression}"


class Environment:
    """Reads variables; what is wrong with them is kept until `seal`.

    Each method takes the variable's name, and a default where it may be missing. A variable that is
    refused has its default meanwhile, or what is nothing of its type.
    """

    def __init__(self) -> None:
        self._problems: dict[Text, Text] = {}

    def str(
        self, name: Text, default: Text | None = None, *, validate: Validator | None = None
    ) -> Text:
        """A text."""
        return self._read(name, default, Text, "", "", validate)

    def int(
        self, name: Text, default: Whole | None = None, *, validate: Validator | None = None
    ) -> Whole:
        """A whole number."""
        return self._read(name, default, _whole, 0, "is no whole number", validate)

    def bool(self, name: Text, default: Flag | None = None) -> Flag:
        """One of two, however they are called."""
        return self._read(name, default, _flag, False, "is neither true nor false")

    def list(self, name: Text, default: Texts | None = None) -> Texts:
        """Texts, with commas between."""
        return self._read(name, default, _texts, [], "")

    def dj_db_url(self, name: Text, default: dict[Text, Any] | None = None) -> dict[Text, Any]:
        """A database's URL, as Django's settings of it."""
        return self._read(name, default, _database, {}, "is not the URL of a database")

    def refuse(self, what: Text, why: Text) -> None:
        """Have `seal` refuse this, too: what is wrong with variables together."""
        self._problems[what] = why

    def _read(
        self,
        name: Text,
        default: T | None,
        convert: Callable[[Text], T],
        nothing: T,
        refusal: Text,
        validate: Validator | None = None,
    ) -> T:
        told = os.environ.get(name)
        fallback = nothing if default is None else default
        if told is None:
            if default is None:
                self._problems[name] = "is not set"
            return fallback
        try:
            value = convert(told)
        except ValueError:
            self._problems[name] = refusal
            return fallback
        refusal = validate.refusal(value) if validate else ""
        if refusal:
            self._problems[name] = refusal
            return fallback
        return value

    def seal(self) -> None:
        """Refuse what is missing or wrong.

        Raises
        ------
        ImproperlyConfigured
            It names each variable, and none of their values.
        """
        if self._problems:
            problems = "; ".join(f"{name} {why}" for name, why in self._problems.items())
            raise ImproperlyConfigured(f"environment variables missing or wrong: {problems}")


def _whole(text: str) -> int:
    """Parse a whole number; CloudFormation may write 10737418240 as 1.073741824E10."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise ValueError from None
        return int(number)


def _flag(text: str) -> bool:
    try:
        return FLAGS[text.lower()]
    except KeyError:
        raise ValueError from None


def _texts(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")] if text else []


def _database(url: str) -> dict[str, Any]:
    if not url:
        raise ValueError
    return {**dj_database_url.parse(url)}
