"""The bytes of a result's parts: in memory, or on disk if they are too large for that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from io import BytesIO
from tempfile import TemporaryFile, gettempdir
from typing import IO, Self

from aggregation.engine import ranges
from aggregation.errors import PartTooLarge

#: Parts in memory or on disk at once: one is filled while the one before it is stored.
PARTS_IN_FLIGHT = 2

#: Bytes that are read at once from the file of a part.
PIECE_BYTES = 1 << 20

#: Shorter pieces of a part in memory are gathered, as many of them would take more memory than they hold.
SHORT_BYTES = 4096

Piece = bytes | bytearray | memoryview


class MemoryPart:
    """A part in memory that keeps what is written to it, without a copy. It must not change afterwards."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._gathered = bytearray()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, piece: Piece) -> None:
        """Append a piece."""
        self._size += len(piece)
        if len(piece) >= SHORT_BYTES:
            self.pieces.append(piece)
            self._gathered = bytearray()
            return
        if piece and not self._gathered:
            self.pieces.append(self._gathered)
        self._gathered += piece

    def tell(self) -> int:
        """Return the number of bytes that were written."""
        return self._size

    def close(self) -> None:
        """Release the pieces."""
        self.pieces = []


#: The bytes of a part. A large part is a file; all of it belongs to the part, whatever its position.
PartData = bytes | bytearray | IO[bytes] | MemoryPart


def check_part_size(part_bytes: int, disk_bytes: int | None, header_bytes: int = 0) -> int:
    """Return how many parts of a size can be in memory or on disk at once.

    Parameters
    ----------
    part_bytes : int
        In bytes of the flattened model.
    disk_bytes : int, optional
        As in `aggregation.engine.plan.Resources`.
    header_bytes : int
        What the first part holds in addition.

    Raises
    ------
    PartTooLarge
        If not even one can, or if object stores do not accept a part of this size.
    """
    if part_bytes <= ranges.PART_BYTES:
        return PARTS_IN_FLIGHT
    needed = part_bytes + header_bytes
    if needed > ranges.MAX_PART_BYTES:
        raise PartTooLarge(
            f"the result has parts of {needed} bytes, and object stores accept "
            f"{ranges.MAX_PART_BYTES}: the model must be smaller"
        )
    if disk_bytes is None:
        disk_bytes = _free_bytes()
    if needed > disk_bytes:
        raise PartTooLarge(
            f"the result has parts of {needed} bytes, and there is disk space for {disk_bytes}: "
            "give the function more EphemeralStorageMb"
        )
    return min(PARTS_IN_FLIGHT, disk_bytes // needed)


def disk_shares(part_sizes: Sequence[int], disk_bytes: int | None) -> list[int | None]:
    """Divide the disk between objects that are written at the same time, by the sizes of their parts."""
    on_disk = sum(size for size in part_sizes if size > ranges.PART_BYTES)
    if not on_disk:
        return [disk_bytes] * len(part_sizes)
    whole = _free_bytes() if disk_bytes is None else disk_bytes
    return [whole * size // on_disk for size in part_sizes]


def _free_bytes() -> int:
    return shutil.disk_usage(gettempdir()).free // 10 * 9


def new_part(part_bytes: int) -> IO[bytes]:
    """Return an empty file for a part: in memory, or on disk if parts of this size are large.

    The file on disk has no name, so that the system deletes it however the process ends.
    """
    return TemporaryFile() if part_bytes > ranges.PART_BYTES else BytesIO()


def data_of(part: IO[bytes]) -> PartData:
    """Return the bytes of a part for a sink."""
    return part.getvalue() if isinstance(part, BytesIO) else part


def body_of(data: PartData) -> bytes | bytearray | IO[bytes]:
    """Return the bytes of a part for a request: in one piece, or as a file at its beginning."""
    if isinstance(data, MemoryPart):
        return b"".join(data.pieces)
    if not isinstance(data, bytes | bytearray):
        data.seek(0)
    return data


def pieces_of(data: PartData) -> Iterator[Piece]:
    """Yield the bytes of a part: as they are in memory, or piece by piece from a file."""
    if isinstance(data, MemoryPart):
        yield from data.pieces
        return
    if isinstance(data, bytes | bytearray):
        yield data
        return
    data.seek(0)
    while piece := data.read(PIECE_BYTES):
        yield piece
