"""Sources of the bytes of weights objects. A source is read by ranges, never as a whole."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Protocol

import numpy as np

from .errors import ObjectMissing, UpdateRejected

Buffer = memoryview


class ByteSource(Protocol):
    """Bytes that do not change while they are read.

    ``read_into`` may be called from several threads at once.
    """

    @property
    def size(self) -> int:
        """Length in bytes."""

    @property
    def local(self) -> bool:
        """Whether a read takes hardly longer than a copy, so that reading ahead gains nothing."""

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on.

        Raises
        ------
        UpdateRejected
            If the object is shorter or no longer exists, or if it was replaced since it was opened.
        """


class FileSource:
    """A file on disk, read with ``preadv``.

    It is opened for each read, so that any number of sources can exist without holding descriptors.
    """

    local = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._identity = _identity(os.stat(self.path))
        self.size = self._identity[2]

    def read_into(self, offset: int, buffer: Buffer) -> None:
        descriptor = self._open()
        try:
            _read_from(descriptor, offset, buffer)
        finally:
            os.close(descriptor)

    def held_open(self, stack: ExitStack) -> ByteSource:
        """Return a source of the same bytes, an `OpenFile` until the stack's exit.

        A file that cannot be opened is opened again, and refused, when it is read.
        """
        try:
            descriptor = self._open()
        except (OSError, UpdateRejected):
            return self
        stack.callback(os.close, descriptor)
        return OpenFile(self, descriptor)

    def check(self) -> None:
        """Raise `UpdateRejected` if the path no longer leads to the file that was seen first."""
        os.close(self._open())

    def _open(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ObjectMissing("the file no longer exists") from error
        if _identity(os.fstat(descriptor)) != self._identity:
            os.close(descriptor)
            raise UpdateRejected(f"file {os.path.basename(self.path)!r} changed while it was read")
        return descriptor


class OpenFile:
    """A file that is held open: a read is one system call.

    Reads do not notice a change of the file; `check` does.
    """

    local = True

    def __init__(self, file: FileSource, descriptor: int) -> None:
        self._file = file
        self._descriptor = descriptor
        self._links = _links(os.fstat(descriptor))
        self.size = file.size

    def read_into(self, offset: int, buffer: Buffer) -> None:
        try:
            _read_from(self._descriptor, offset, buffer)
        except UpdateRejected:
            self.check()  # It may be shorter because it was changed.
            raise

    def check(self) -> None:
        """Raise `UpdateRejected` if the file was changed, deleted or replaced.

        A file that was deleted or replaced has one link less. A new link is no reason to refuse it.
        """
        if _links(os.fstat(self._descriptor)) != self._links:
            self._file.check()


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _links(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_nlink, status.st_size, status.st_mtime_ns


def _read_from(descriptor: int, offset: int, buffer: Buffer) -> None:
    while count := os.preadv(descriptor, [buffer], offset):
        if count == len(buffer):
            return
        offset, buffer = offset + count, buffer[count:]
    if buffer:
        raise UpdateRejected(f"the object ends at byte {offset}, expected {offset + len(buffer)}")


class BytesSource:
    """Bytes in memory."""

    local = True

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.size = len(self._data)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        if offset + len(buffer) > self.size:
            raise UpdateRejected(
                f"the object ends at byte {self.size}, expected {offset + len(buffer)}"
            )
        buffer[:] = self._data[offset : offset + len(buffer)]


def read(source: ByteSource, offset: int, length: int) -> bytes:
    """Return ``length`` bytes from ``offset`` on, or fewer if the source ends before."""
    return bytes(read_view(source, offset, length))


def read_view(source: ByteSource, offset: int, length: int) -> memoryview:
    """Return the same bytes as `read`, without a copy."""
    data = np.empty(max(0, min(length, source.size - offset)), np.uint8).data
    if data:
        source.read_into(offset, data)
    return data
