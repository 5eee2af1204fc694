"""Unpacks the members of an npz archive that cannot be read by ranges where they are.

These are deflated, big-endian and Fortran-ordered arrays. They are copied to a spool once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ...errors import UpdateRejected, quoted
from ...sources import Buffer, ByteSource
from ...weights import Weights
from ..spool import Spool, SpoolFile
from . import fortran
from .structure import Archive, Member
from .zip_member import member_blocks


def bytes_to_unpack(archive: Archive) -> int:
    """Return how many bytes the members take in a spool while they are unpacked."""
    sizes = [member.entry.size for member in archive.unpacked]
    reordered = [member.entry.size for member in archive.unpacked if member.header.fortran]
    return sum(sizes) + max(reordered, default=0)


def unpack(source: ByteSource, archive: Archive, crcs: Sequence[int], spool: Spool) -> Weights:
    """Return the weights, with what cannot be read by ranges copied to the spool."""
    needed = bytes_to_unpack(archive)
    if needed > spool.max_bytes:
        raise UpdateRejected(
            f"npz that takes {needed} bytes to unpack, at most {spool.max_bytes} are available"
        )
    with spool.new_file() as file:
        for member, number in zip(archive.members, archive.numbers, strict=True):
            if member.ranged:
                continue
            try:
                _unpack_member(source, member, crcs[number], spool, file)
            except UpdateRejected as error:
                raise UpdateRejected(f"npz member {quoted(member.entry.name)}: {error}") from error
        unpacked: ByteSource = file.source()
        if len(archive.unpacked) < len(archive.members):
            unpacked = _Concatenated(unpacked, source)
        return Weights(index=archive.index, source=unpacked, format="npz")


class _Concatenated:
    """Two sources, one after the other."""

    def __init__(self, first: ByteSource, second: ByteSource) -> None:
        self._first = first
        self._second = second
        self.size = first.size + second.size
        self.local = first.local and second.local

    def read_into(self, offset: int, buffer: Buffer) -> None:
        here = max(0, self._first.size - offset)
        if here:
            self._first.read_into(offset, buffer[:here])
        if here < len(buffer):
            self._second.read_into(offset + here - self._first.size, buffer[here:])


def _unpack_member(
    source: ByteSource, member: Member, crc: int, spool: Spool, file: SpoolFile
) -> None:
    """Append the values of a member in C order and little-endian."""
    blocks = member_blocks(source, member.entry, member.local_bytes, crc)
    values = _without_first(blocks, member.header.length)
    if member.header.swapped:
        values = _swapped(values, member.tensor.dtype)
    if not member.header.fortran:
        for block in values:
            file.write(block)
        return
    with spool.new_file(keep=False) as raw:
        for block in values:
            raw.write(block)
        start = file.extend(member.tensor.nbytes)
        shape, itemsize = member.tensor.shape, member.tensor.dtype.itemsize
        fortran.reorder(raw.descriptor, file.descriptor, start, shape, itemsize)


def _without_first(blocks: Iterable[bytes], count: int) -> Iterator[bytes]:
    for block in blocks:
        if len(block) > count:
            yield block[count:]
        count = max(0, count - len(block))


def _swapped(blocks: Iterable[bytes], dtype: np.dtype) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        data = rest + block
        whole = len(data) - len(data) % dtype.itemsize
        yield np.frombuffer(data[:whole], dtype).byteswap().tobytes()
        rest = data[whole:]
