"""The bytes of a result's parts: in memory, or on disk if they are too large for that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from io import BytesIO
from tempfile import TemporaryFile, gettempdir
from typing import IO

from aggregation.engine import ranges
from aggregation.errors import PartTooLarge

#: Parts in memory or on disk at once: one is filled while the one before it is stored.
PARTS_IN_FLIGHT = 2

#: Bytes that are read at once from the file of a part.
PIECE_BYTES = 1 << 20

#: The bytes of a part. A large part is a file; all of it belongs to the part, whatever its position.
PartData = bytes | bytearray | IO[bytes]


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
        disk_bytes = shutil.disk_usage(gettempdir()).free // 10 * 9
    if needed > disk_bytes:
        raise PartTooLarge(
            f"the result has parts of {needed} bytes, and there is disk space for {disk_bytes}: "
            "give the function more EphemeralStorageMb"
        )
    return min(PARTS_IN_FLIGHT, disk_bytes // needed)


def new_part(part_bytes: int) -> IO[bytes]:
    """Return an empty file for a part: in memory, or on disk if parts of this size are large.

    The file on disk has no name, so that the system deletes it however the process ends.
    """
    return TemporaryFile() if part_bytes > ranges.PART_BYTES else BytesIO()


def data_of(part: IO[bytes]) -> PartData:
    """Return the bytes of a part for a sink."""
    return part.getvalue() if isinstance(part, BytesIO) else part


def pieces_of(data: PartData) -> Iterator[bytes | bytearray]:
    """Yield the bytes of a part: at once from memory, piece by piece from a file."""
    if isinstance(data, bytes | bytearray):
        yield data
        return
    data.seek(0)
    while piece := data.read(PIECE_BYTES):
        yield piece
