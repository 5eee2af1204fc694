"""Bytes read by ranges: of an open file, or of an object in storage."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

from . import limits
from ._core.errors import UpdateRejected
from ._core.formats import format_of, peek_layout
from ._core.layout import TensorLayout
from ._core.sources import Buffer
from .storage import Storage


class FileBytes:
    """The bytes of an open file, read by ranges.

    Parameters
    ----------
    file : binary file
        It must be seekable; its position changes.
    """

    local = True

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = file.seek(0, os.SEEK_END)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(len(buffer))
        if len(data) < len(buffer):
            raise UpdateRejected(
                f"the object ends at byte {offset + len(data)}, expected {offset + len(buffer)}"
            )
        buffer[:] = data


class ObjectBytes:
    """The bytes of an object, read by ranges; its first ones are read once.

    Parameters
    ----------
    storage : Storage
    key, etag : str
    """

    local = False

    def __init__(self, storage: Storage, key: str, etag: str) -> None:
        self._storage, self._key, self._etag = storage, key, etag
        self._head, self.size = storage.get_range(key, 0, limits.HEAD_BYTES, etag=etag)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        end = offset + len(buffer)
        if end <= len(self._head):
            buffer[:] = self._head[offset:end]
            return
        data, _ = self._storage.get_range(self._key, offset, len(buffer), etag=self._etag)
        if len(data) != len(buffer):
            raise UpdateRejected(f"the object ends at byte {offset + len(data)}, expected {end}")
        buffer[:] = data


def layout_of_object(storage: Storage, key: str, etag: str) -> TensorLayout:
    """Return the layout of the weights in an object, of which only the headers are read."""
    return peek_layout(ObjectBytes(storage, key, etag), format_of(key), trusted=True)
