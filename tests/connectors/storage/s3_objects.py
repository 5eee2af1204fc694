"""Helpers for the tests of S3: objects as others store and read them."""

from __future__ import annotations

import itertools
import json
from typing import Any

from connectors.storage.s3 import S3Objects

_numbers = itertools.count(1)


def new_key(folder: str = "1") -> str:
    """Return a key that no other test uses."""
    return f"aggregates/{folder}/{next(_numbers)}.npz"


def put(objects: S3Objects, body: bytes, **extra: Any) -> tuple[str, str]:
    """Store an object as a client does; return its key and ETag."""
    key = new_key()
    stored = objects.client.put_object(Bucket=objects.bucket, Key=key, Body=body, **extra)
    return key, stored["ETag"].strip('"')


def get(objects: S3Objects, key: str) -> bytes:
    return bytes(objects.client.get_object(Bucket=objects.bucket, Key=key)["Body"].read())


def read(objects: S3Objects, key: str, start: int, stop: int, *, size: int, etag: str) -> bytes:
    buffer = bytearray(stop - start)
    objects.source(key, size=size, etag=etag).read_into(start, memoryview(buffer))
    return bytes(buffer)


def unfinished(objects: S3Objects) -> list[str]:
    found = objects.client.list_multipart_uploads(Bucket=objects.bucket)
    return [each["Key"] for each in found.get("Uploads", ())]


def again(objects: S3Objects, state: dict[str, Any]) -> Any:
    """Return the sink of another process that continues from a saved state."""
    return objects.sink(new_key(), json.loads(json.dumps(state)))
