"""How documents that follow the database are replaced: a slow writer never restores older contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from aggregation.errors import TemporarilyUnavailable
from connectors.storage.port import PreconditionFailed

#: Attempts to replace a document that others are writing at the same time.
TRIES = 5

T = TypeVar("T")


def replace_document(key: str, attempt: Callable[[], T]) -> T:
    """Call a function until it has replaced a document.

    Parameters
    ----------
    key : str
    attempt : callable
        Looks at the document, then reads the database, and replaces the document if it is still the same:
        it raises `PreconditionFailed` if it is not.

    Raises
    ------
    TemporarilyUnavailable
        If others were quicker in each attempt.
    """
    for _ in range(TRIES):
        try:
            return attempt()
        except PreconditionFailed:
            continue
    raise TemporarilyUnavailable(f"{key} is being written by many at once")
