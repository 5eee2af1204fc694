"""Compare bytes in storage with those that are computed or stored elsewhere."""

from __future__ import annotations

from typing import Any

from aggregation.engine.parts import PartData, Piece, body_of, pieces_of
from aggregation.errors import AggregationError
from aggregation.sources import ByteSource

#: Bytes that are compared at once if two objects must be the same.
STEP = 8 << 20


class AuditMismatch(AggregationError):
    """The bytes in storage are not those that were computed; the message says where."""


def compare(expected: ByteSource, stored: ByteSource) -> None:
    """Raise `AuditMismatch` unless two objects have the same bytes."""
    sink = ComparingSink(stored)
    for start in range(0, expected.size, STEP):
        piece = bytearray(min(STEP, expected.size - start))
        expected.read_into(start, memoryview(piece))
        sink.write_part(0, bytes(piece))
    sink.complete()


class ComparingSink:
    """Compares the parts of a result, which come in order, with a stored object.

    Parameters
    ----------
    stored : ByteSource
    """

    def __init__(self, stored: ByteSource) -> None:
        self._stored = stored
        self._position = 0

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        """Compare the next bytes.

        Raises
        ------
        AuditMismatch
        """
        for piece in pieces_of(body_of(data)):  # One read for a part in memory.
            self._compare(piece)

    def _compare(self, data: Piece) -> None:
        start, stop = self._position, self._position + len(data)
        if stop > self._stored.size:
            raise AuditMismatch(f"{self._stored.size} bytes are stored, and more were computed")
        there = bytearray(len(data))
        self._stored.read_into(start, memoryview(there))
        if there != data:
            pairs = enumerate(zip(there, data, strict=True))
            first = next(position for position, (a, b) in pairs if a != b)
            raise AuditMismatch(
                f"the bytes in storage differ from those computed, from {start + first} on"
            )
        self._position = stop

    def state(self) -> dict[str, Any]:
        """Return nothing: a comparison is not resumed."""
        return {}

    def complete(self) -> None:
        """Refuse a stored object that is longer than the result."""
        if self._position != self._stored.size:
            raise AuditMismatch(
                f"{self._stored.size} bytes are stored, only {self._position} were computed"
            )

    def abort(self) -> None:
        """Do nothing: nothing is kept."""
