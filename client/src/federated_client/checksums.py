"""The checksums that S3 sends with an object, verified while its bytes are read."""

from __future__ import annotations

import base64
import hashlib
import zlib
from email.message import Message
from typing import Protocol


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class Checksums:
    """Verifies the checksums in the headers of a body that the standard library can compute.

    Parameters
    ----------
    headers : email.message.Message
        A checksum of an object that was uploaded in parts, which ends with ``-`` and their number, is not
        one of the object's bytes and is not verified.
    """

    def __init__(self, headers: Message) -> None:
        self._expected: dict[str, tuple[_Hash, bytes]] = {}
        for name, new in (
            ("x-amz-checksum-crc32", _Crc32),
            ("x-amz-checksum-sha1", hashlib.sha1),
            ("x-amz-checksum-sha256", hashlib.sha256),
        ):
            value = headers.get(name, "")
            if value and "-" not in value:
                self._expected[name.rpartition("-")[2]] = new(), base64.b64decode(value)

    def update(self, data: bytes) -> None:
        """Take in the next bytes of the body."""
        for hash_, _ in self._expected.values():
            hash_.update(data)

    def mismatch(self) -> str:
        """Return the name of a checksum that differs; empty if none does."""
        for name, (hash_, expected) in self._expected.items():
            if hash_.digest() != expected:
                return name
        return ""
