"""The storage interface of the client, and the retries of its requests."""

from __future__ import annotations

import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from . import limits
from .errors import AccessDenied, CredentialsInvalid, NotThere, StorageUnreachable

logger = logging.getLogger(__name__)

#: Called with the number of bytes sent so far and the number of all bytes.
Progress = Callable[[int, int], None]

T = TypeVar("T")


class Storage(Protocol):
    """The place where a federation's objects are."""

    def get(self, key: str, *, etag: str = "", attempts: int = limits.ATTEMPTS) -> bytes:
        """Return the whole of a small object.

        Parameters
        ----------
        key : str
        etag : str
            If given, only the object with this ETag.
        attempts : int
            How often the request is made at most.

        Raises
        ------
        NotThere, AccessDenied, StorageUnreachable, DownloadRefused
        """

    def get_range(self, key: str, start: int, length: int, *, etag: str) -> tuple[bytes, int]:
        """Return bytes ``start`` to ``start + length`` of an object, and the object's size."""

    def download(self, key: str, path: Path, *, etag: str = "") -> None:
        """Write an object of any size to a file, which appears when it is complete."""

    def put(
        self, key: str, body: BinaryIO, metadata: Mapping[str, str], progress: Progress | None
    ) -> str:
        """Store an object and return its key, which is not always the requested one.

        Raises
        ------
        UploadRefused, AccessDenied, StorageUnreachable
        """


def retry(
    request: Callable[[], T],
    attempts: int = limits.ATTEMPTS,
    position: Callable[[], int] = lambda: 0,
) -> T:
    """Make a request, and again after a pause while storage is unreachable; log each failure.

    Parameters
    ----------
    request : callable
    attempts : int
        How often it fails in a row at most.
    position : callable
        How far a transfer is. Only failures since it last got further are counted.
    """
    failures, reached = 0, -1
    while True:
        try:
            return request()
        except StorageUnreachable as error:
            failures = failures + 1 if position() <= reached else 1
            reached = max(reached, position())
            if failures >= attempts:
                raise
            longest = limits.FIRST_PAUSE_SECONDS * 2 ** (failures - 1)
            pause = random.uniform(0, min(longest, limits.MAX_PAUSE_SECONDS))
            logger.warning("%s; attempt %d of %d follows", error, failures + 1, attempts)
            time.sleep(max(pause, error.retry_after))


def visible(read: Callable[[], T]) -> T | None:
    """Return what is read from storage; None if it does not exist, or this client may not see it.

    Raises
    ------
    CredentialsInvalid
        If the credentials are the reason.
    """
    try:
        return read()
    except CredentialsInvalid:
        raise
    except (NotThere, AccessDenied):
        return None


@contextmanager
def complete_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` when the block ends without an error."""
    try:
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent
        )
    except OSError as error:
        error.filename = str(path)  # The temporary name would say nothing to the caller.
        raise
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _umask() -> int:
    """Return the permissions that new files do not get; ``mkstemp`` creates files for the owner only."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
