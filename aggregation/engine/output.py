"""Write a result part by part, to a sink."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from typing import IO, Any, BinaryIO, Protocol, TypedDict

from aggregation.engine import ranges
from aggregation.engine.parts import (
    PARTS_IN_FLIGHT,
    MemoryPart,
    PartData,
    Piece,
    check_part_size,
    new_part,
    pieces_of,
)
from aggregation.errors import ProgressLost
from aggregation.formats import Encoder
from aggregation.layout import TensorLayout


class Sink(Protocol):
    """The destination of a result's parts.

    An object becomes visible only when it is complete: after `complete`, or, if it has a single part,
    possibly as soon as that part is written.
    """

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        """Store part ``number``, counted from 1. ``last`` says that no other part follows."""

    def state(self) -> dict[str, Any]:
        """Return what another process needs to continue after the last part written; JSON-able."""

    def complete(self) -> None:
        """Make the complete object visible, unless it is visible already."""

    def abort(self) -> None:
        """Delete the parts."""


class Progress(TypedDict):
    """The progress of a result after a stored part; JSON-able."""

    parts: int
    next_element: int
    encoder: dict[str, Any]
    sink: dict[str, Any]


class PartWriter:
    """Encodes the result's chunks in order, and stores each part while the next one is computed.

    Parts that are larger than `ranges.PART_BYTES` are written to temporary files. While one of them is
    stored, the next one is computed only if the disk has space for both.

    Parameters
    ----------
    layout : TensorLayout
    ends : sequence of int
        The elements before which parts end.
    encoder : Encoder
    sink : Sink
    pool : Executor
        Its thread stores.
    progress : Progress, optional
        Where to continue.
    checkpoint : callable
        Called with the progress once a part is stored.
    part_bytes : int
        Size of the parts in bytes of the flattened model.
    disk_bytes : int, optional
        As in `aggregation.engine.plan.Resources`.

    Raises
    ------
    PartTooLarge
    """

    def __init__(
        self,
        layout: TensorLayout,
        ends: Sequence[int],
        encoder: Encoder,
        sink: Sink,
        pool: Executor,
        progress: Progress | None,
        checkpoint: Callable[[Progress], None],
        part_bytes: int,
        disk_bytes: int | None,
    ) -> None:
        self._layout = layout
        self._encoder = encoder
        self._sink = sink
        self._pool = pool
        self._checkpoint = checkpoint
        self._parts = progress["parts"] if progress else 0
        self.next_element = progress["next_element"] if progress else 0
        self.ends = ends
        self._is_end = set(ends)
        header = b"" if progress else encoder.header()
        self._at_once = check_part_size(part_bytes, disk_bytes, len(header))
        self._part_bytes = part_bytes
        self._part = _new_part(part_bytes)
        self._part.write(header)
        self._storing: tuple[Future[None], Progress] | None = None

    def write(self, stop: int, slices: Iterable[memoryview]) -> None:
        """Append the bytes of the elements from `next_element` to ``stop``; no part ends between them."""
        start = self._layout.bytes_before(self.next_element)
        for data in slices:
            for piece in self._encoder.encode(start, data):
                self._part.write(piece)
            start += len(data)
        self.next_element = stop
        if (
            stop in self._is_end
            and stop < self._layout.size
            and self._part.tell() >= ranges.PART_BYTES // 2
        ):
            self._store()

    def complete(self) -> None:
        """Make the object visible, of which all parts are stored."""
        self._sink.complete()

    def store_last(self, *, alone: bool = True) -> None:
        """Store the last part.

        Parameters
        ----------
        alone : bool
            Whether no other process stores parts of the same object.
        """
        self._part.write(self._encoder.footer())
        self._store(last=alone)
        if self._storing:
            self._storing[0].result()

    def discard(self) -> None:
        """Close the file of an unfinished part."""
        self._part.close()

    def flush(self) -> None:
        """Wait until the last full part is stored, and report the progress."""
        if self._storing:
            (future, progress), self._storing = self._storing, None
            future.result()
            self._checkpoint({**progress, "sink": self._sink.state()})

    def _store(self, *, last: bool = False) -> None:
        self.flush()
        self._parts += 1
        part, self._part = self._part, _new_part(self._part_bytes)
        progress = Progress(
            parts=self._parts,
            next_element=self.next_element,
            encoder=self._encoder.state(),
            sink={},
        )
        storing = self._pool.submit(self._write_part, self._parts, part, last=last)
        self._storing = storing, progress
        if self._at_once < PARTS_IN_FLIGHT and not last:
            self.flush()

    def _write_part(self, number: int, part: IO[bytes] | MemoryPart, *, last: bool) -> None:
        with part:
            self._sink.write_part(number, part, last=last)


def _new_part(part_bytes: int) -> IO[bytes] | MemoryPart:
    return new_part(part_bytes) if part_bytes > ranges.PART_BYTES else MemoryPart()


class FileSink:
    """A file that appears under its name only when it is complete.

    Each sink writes to a file of its own. A sink that continues another one's work copies its file,
    because the other process may be slow rather than dead, and still be writing.

    Raises
    ------
    ProgressLost
        If the unfinished file no longer exists.
    """

    def __init__(self, path: str | os.PathLike[str], state: dict[str, Any] | None = None) -> None:
        self._path = os.fspath(path)
        self._partial = f"{self._path}.{uuid.uuid4().hex}.part"
        self._size: int = state["size"] if state else 0
        if state:
            self._copy(os.path.join(os.path.dirname(self._path), state["partial"]))
        else:
            open(self._partial, "xb").close()

    def _copy(self, partial: str) -> None:
        try:
            shutil.copyfile(partial, self._partial)
        except FileNotFoundError as error:
            raise ProgressLost("the unfinished file is no longer there") from error
        with self._opened() as file:
            file.truncate(self._size)

    def _opened(self) -> BinaryIO:
        """Open the file after its last part; the sweep may have deleted the file."""
        try:
            file = open(self._partial, "r+b")  # noqa: SIM115
        except FileNotFoundError as error:
            raise ProgressLost("the unfinished file is no longer there") from error
        if file.seek(0, os.SEEK_END) < self._size:
            file.close()
            raise ProgressLost("the unfinished file is shorter than it was")
        file.seek(self._size)
        return file

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        with self._opened() as file:
            file.writelines(pieces_of(data))
            self._size = file.tell()
            if not last:
                # The disk works while the next part is computed, and `complete` waits for less.
                file.flush()
                os.fdatasync(file.fileno())

    def state(self) -> dict[str, Any]:
        return {"partial": os.path.basename(self._partial), "size": self._size}

    def complete(self) -> None:
        with self._opened() as file:
            os.fsync(file.fileno())
        os.replace(self._partial, self._path)

    def abort(self) -> None:
        if os.path.exists(self._partial):
            os.unlink(self._partial)


class MemorySink:
    """A result in memory, for notebooks and tests."""

    def __init__(self) -> None:
        self._parts: list[Piece] = []

    @property
    def data(self) -> bytes:
        """The bytes written so far."""
        return b"".join(self._parts)

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        self._parts += pieces_of(data)

    def state(self) -> dict[str, Any]:
        return {}

    def complete(self) -> None:
        pass

    def abort(self) -> None:
        self._parts.clear()


class DiscardingSink:
    """Discards a result of which only the way it came about is wanted."""

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def complete(self) -> None:
        pass

    def abort(self) -> None:
        pass
