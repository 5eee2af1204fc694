"""Temporary files for weights that cannot be read by ranges where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import disk_usage
from tempfile import NamedTemporaryFile, TemporaryDirectory, gettempdir
from threading import Lock
from types import TracebackType
from typing import IO

from ..errors import SpoolFull, UpdateRejected
from ..layout import TensorLayout
from ..sources import FileSource


class NeedsSpool(Exception):
    """An update must be unpacked to be read, and no spool was given.

    Attributes
    ----------
    layout : TensorLayout
        As far as it is known: text is not read if the model's layout is known.
    needed : int
        The most bytes that it takes in a spool.
    is_text : bool
        Whether the update takes its dtypes, and so its size, from the model.
    """

    def __init__(self, layout: TensorLayout, needed: int, *, is_text: bool) -> None:
        super().__init__(f"it takes {needed} bytes to unpack")
        self.layout = layout
        self.needed = needed
        self.is_text = is_text


class SpoolFile:
    """A file that is being written to a spool."""

    def __init__(self, spool: Spool, file: IO[bytes]) -> None:
        self._spool = spool
        self._file = file
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``.

        Raises
        ------
        UpdateRejected
            If the file would not fit into an empty spool.
        SpoolFull
            If it does not fit beside the other files.
        """
        self._grow(memoryview(data).nbytes)
        self._file.write(data)

    def extend(self, size: int) -> int:
        """Reserve ``size`` bytes that are written through `descriptor`; return their first position.

        Errors are those of `write`.
        """
        start = self.size
        self._grow(size)
        self._file.truncate(self.size)
        self._file.seek(self.size)
        return start

    def _grow(self, size: int) -> None:
        limit = self._spool.max_bytes
        if self.size + size > limit:
            raise UpdateRejected(f"it takes more than {limit} bytes to unpack")
        self._spool._take(size)
        self.size += size

    @property
    def descriptor(self) -> int:
        """The open file, for reading and writing, after flushing what was written."""
        self._file.flush()
        return self._file.fileno()

    def source(self) -> FileSource:
        """Close the file and return it as a source that is read by ranges."""
        self._file.close()
        return FileSource(self._file.name)


class Spool:
    """A temporary directory with a limit on the size of its files.

    Deflated or Fortran-ordered members of npz archives and JSON text are unpacked into it once, as the
    bytes of their tensors, and are then read by ranges. Leaving the context deletes it.

    Parameters
    ----------
    max_bytes : int, optional
        The limit for all files together; by default nine tenths of the free space of the disk.
    directory : path, optional
        The parent of the temporary directory; by default that of `tempfile`.
    """

    def __init__(
        self, max_bytes: int | None = None, directory: str | os.PathLike[str] | None = None
    ) -> None:
        self._parent = os.fspath(directory or gettempdir())
        self.max_bytes = disk_usage(self._parent).free // 10 * 9 if max_bytes is None else max_bytes
        self._free = self.max_bytes
        self._lock = Lock()
        self._directory: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Spool:
        self._directory = TemporaryDirectory(prefix="spool-", dir=self._parent)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._directory:
            self._directory.cleanup()
            self._directory = None

    def share(self, size: int) -> Spool:
        """Reserve space for one update and return it as a spool in the same directory.

        An update that needs more is rejected and takes nothing from the others.

        Raises
        ------
        UpdateRejected
            If there is not enough space left.
        """
        try:
            self._take(size)
        except SpoolFull as error:
            raise UpdateRejected(
                f"it takes {size} bytes to unpack; of the {self.max_bytes} for all updates of a "
                f"round, {self._free} are left: store it uncompressed (safetensors, or npz by "
                "numpy.savez), or have the function given more EphemeralStorageMb"
            ) from error
        share = Spool(size, self._parent)
        share._directory = self._directory
        return share

    @contextmanager
    def new_file(self, *, keep: bool = True) -> Iterator[SpoolFile]:
        """Create a file. It is deleted at the end of the context after an error, or if not ``keep``."""
        if not self._directory:
            raise ValueError("a spool can only be used in its context")
        with NamedTemporaryFile(dir=self._directory.name, delete=False) as file:
            spooled = SpoolFile(self, file)
            try:
                yield spooled
            except BaseException:
                keep = False
                raise
            finally:
                if not keep:
                    os.unlink(file.name)
                    self._take(-spooled.size)

    def _take(self, size: int) -> None:
        with self._lock:
            if size > self._free:
                raise SpoolFull(
                    f"what must be unpacked does not fit into {self.max_bytes} bytes of disk: "
                    "give it more, or store safetensors or npz that is not compressed"
                )
            self._free -= size
