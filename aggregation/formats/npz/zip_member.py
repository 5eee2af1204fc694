"""The members of a zip archive: local headers, and data that may be deflated."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from ...errors import UpdateRejected
from ...sources import ByteSource, read
from . import zip_format
from .zip_directory import Entry

#: How many bytes of a member are processed at once.
BLOCK_BYTES = 1 << 20


def local_header_bytes(entry: Entry, beginning: bytes) -> int:
    """Return the length of a member's local header, all of which is in ``beginning``.

    Raises
    ------
    UpdateRejected
        If the header does not agree with the directory, or the member's data overlap the next member.
    """
    signature, _, flags, method, *_, name, extra = zip_format.LOCAL.unpack_from(beginning)
    if signature != zip_format.LOCAL_SIGNATURE:
        raise UpdateRejected("it is not where the directory says")
    same_method = method == (zip_format.DEFLATED if entry.deflated else zip_format.STORED)
    same_name = beginning[zip_format.LOCAL.size : zip_format.LOCAL.size + name] == entry.raw_name
    if flags & zip_format.ENCRYPTED or not same_method or not same_name:
        raise UpdateRejected("its own header and the directory describe it differently")
    length: int = zip_format.LOCAL.size + name + extra
    if entry.offset + length + entry.compressed > entry.stop:
        raise UpdateRejected("it overlaps what follows it")
    return length


def member_blocks(source: ByteSource, entry: Entry, local_bytes: int, crc: int) -> Iterator[bytes]:
    """Yield the bytes of a member, inflated, in blocks of at most `BLOCK_BYTES`.

    Parameters
    ----------
    source : ByteSource
        The bytes of the archive.
    entry : Entry
        The member.
    local_bytes : int
        Length of its local header.
    crc : int
        Its declared CRC-32.

    Raises
    ------
    UpdateRejected
        If length or CRC are not as declared. No more than the declared length is yielded.
    """
    blocks = _stored_blocks(source, entry.offset + local_bytes, entry.compressed)
    if entry.deflated:
        blocks = _inflated_blocks(blocks)
    total = found = 0
    for block in blocks:
        total += len(block)
        if total > entry.size:
            break
        found = zlib.crc32(block, found)
        yield block
    if total != entry.size:
        raise UpdateRejected(f"it does not inflate to the {entry.size} bytes it declares")
    check_crc(found, crc)


def check_crc(found: int, expected: int) -> None:
    """Reject a member whose CRC-32 differs from the one in the directory."""
    if found != expected:
        raise UpdateRejected("it is damaged, its CRC does not match")


def _stored_blocks(source: ByteSource, start: int, length: int) -> Iterator[bytes]:
    for offset in range(start, start + length, BLOCK_BYTES):
        yield read(source, offset, min(BLOCK_BYTES, start + length - offset))


def _inflated_blocks(blocks: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for block in blocks:
        more = True
        while more:
            inflated = inflate(inflater, block, BLOCK_BYTES)
            yield inflated
            block = inflater.unconsumed_tail
            more = not inflater.eof and (bool(block) or len(inflated) == BLOCK_BYTES)
        if inflater.eof and (block or inflater.unused_data or next(blocks, b"")):
            raise UpdateRejected("its deflated data end before its bytes do")
    if not inflater.eof:
        raise UpdateRejected("its deflated data are cut off")


class Inflater(Protocol):
    """The type of `zlib.decompressobj`, which has no public name."""

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes: ...


def inflate(inflater: Inflater, data: bytes | memoryview, max_length: int) -> bytes:
    """Return at most ``max_length`` bytes of inflated data."""
    try:
        return inflater.decompress(data, max_length)
    except zlib.error as error:
        raise UpdateRejected("its deflated data are damaged") from error
