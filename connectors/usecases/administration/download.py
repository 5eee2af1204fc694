"""Download the weights of an aggregate."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from aggregation.errors import Conflict
from connectors.storage.port import Objects
from connectors.storage.presigning import MAX_MINUTES_IN_A_FUNCTION, Signer

#: Bytes in memory at a time.
STEP = 8 << 20


def save_object(objects: Objects, key: str, path: Path) -> int:
    """Write an object to a file, and return its size in bytes."""
    stored = objects.stat(key)
    source = objects.source(key, size=stored.size, etag=stored.etag)
    with path.open("wb") as file:
        for start in range(0, stored.size, STEP):
            piece = bytearray(min(STEP, stored.size - start))
            source.read_into(start, memoryview(piece))
            file.write(piece)
    return stored.size


def sign_link(objects: Objects, key: str) -> tuple[int, str]:
    """Return an object's size in bytes, and a link to it that is valid for an hour.

    Raises
    ------
    Conflict
        If storage is a directory.
    """
    if not settings.BUCKET:
        raise Conflict("links are signed for a bucket: use --out, or set BUCKET, not STORAGE_ROOT")
    return objects.stat(key).size, Signer().link(key, seconds=60 * MAX_MINUTES_IN_A_FUNCTION)
