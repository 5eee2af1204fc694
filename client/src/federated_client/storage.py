"""What a client asks of storage."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from .errors import StorageUnreachable

#: Told how many bytes have been sent, and of how many.
Progress = Callable[[int, int], None]

#: Times a request is made, with full jitter between: some fifteen seconds in all.
TRIES = 6
FIRST_PAUSE_SECONDS = 0.5

T = TypeVar("T")


class Storage(Protocol):
    """Where a federation's objects are."""

    def get(self, key: str, *, etag: str = "") -> bytes:
        """A small object; with an ``etag``, that one only.

        Raises
        ------
        NotThere, AccessDenied, StorageUnreachable
        """

    def download(self, key: str, path: Path, *, etag: str = "") -> None:
        """An object of any size into a file."""

    def put(
        self, key: str, body: BinaryIO, metadata: Mapping[str, str], progress: Progress | None
    ) -> str:
        """Store an object; the key it has got.

        Raises
        ------
        UploadRefused, AccessDenied, StorageUnreachable
        """


def patiently(request: Callable[[], T]) -> T:
    """Make a request again, after a pause, as long as storage is out of reach."""
    for attempt in range(TRIES - 1):
        try:
            return request()
        except StorageUnreachable:
            time.sleep(random.uniform(0, FIRST_PAUSE_SECONDS * 2**attempt))
    return request()
