"""Cases of hostile files: a file, and the reason for which it must be rejected."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Case(NamedTuple):
    """A file in a format, and a phrase of its rejection."""

    format: str
    make: Callable[[], bytes]
    reason: str


class Cases(dict[str, Case]):
    """Cases by name."""

    def add(self, name: str, format: str, make: Callable[[], bytes], reason: str) -> None:
        """Add a case under a new name."""
        assert name not in self, name
        self[name] = Case(format, make, reason)
