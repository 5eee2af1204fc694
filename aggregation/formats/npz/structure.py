"""The structure of an npz archive: its arrays, and the positions of their values.

It follows from the central directory and from the headers in front of each array, which are read in few
requests: small arrays come with their neighbours.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ...cache import cache_by_weight
from ...errors import UpdateRejected, quoted
from ...layout import Tensor, TensorLayout, name_difference, number_order
from ...sources import Buffer, ByteSource, read_view
from ...weights import MAX_SPAN_BYTES, TensorIndex, shared_index
from ..limits import Limits
from . import npy, zip_format
from .names import array_names
from .zip_directory import Directory, Entry, parse_directory, read_directory
from .zip_member import check_crc, inflate, local_header_bytes

#: The size of the first read, at the end of the object. It contains most directories.
TAIL_BYTES = 64 << 10

#: How much of a large member is read to see its headers: more than the longest headers take.
HEAD_BYTES = 16 << 10

#: The most bytes between two headers that are read in one request. With 16 parallel requests of 30 ms
#: and 70 MB/s, a request takes as long as the transfer of this many bytes.
MAX_HEAD_GAP_BYTES = 128 << 10

#: A member up to this size is read completely with its headers, and its CRC is checked.
SMALL_BYTES = 64 << 10

#: The parsed contents of recent directories and headers up to this size, and of one larger, are kept.
SMALL_BYTES_KEPT = 128 << 10

_VOLATILE = slice(10, 18)  # time, date and CRC in a local header
_ZEROS = bytes(8)
_LOCAL_LENGTHS = struct.Struct("<26xHH")


class Member(NamedTuple):
    """One array of an archive.

    Parameters
    ----------
    entry : Entry
    tensor : Tensor
    header : npy.Header
    local_bytes : int
        Length of the local header, after which the member's bytes begin.
    """

    entry: Entry
    tensor: Tensor
    header: npy.Header
    local_bytes: int

    @property
    def ranged(self) -> bool:
        """Whether the object holds its values as they are in the flattened model."""
        reordered = self.header.fortran and len(self.tensor.shape) > 1
        return not (self.entry.deflated or reordered or self.header.swapped)

    @property
    def values_at(self) -> int:
        """The first byte of its values in the object, if it is stored."""
        return self.entry.offset + self.local_bytes + self.header.length


@dataclass(frozen=True, eq=False)
class Archive:
    """The contents of an archive that archives of the same structure share.

    Parameters
    ----------
    index : TensorIndex
        The positions of the values, with the unpacked ones in front of the object. Compressed archives
        share it although their compressed sizes differ.
    members : tuple of Member
        In the order of the layout.
    numbers : tuple of int
        The position of each member in the directory.
    """

    index: TensorIndex
    members: tuple[Member, ...]
    numbers: tuple[int, ...]

    @cached_property
    def unpacked(self) -> tuple[Member, ...]:
        """The members that cannot be read by ranges."""
        return tuple(member for member in self.members if not member.ranged)


class HeadSpan(NamedTuple):
    """A range of the object that contains the headers of some members."""

    start: int
    stop: int
    numbers: tuple[int, ...]


class Contents(NamedTuple):
    """The directory of an archive, and the ranges that contain the headers of its members."""

    source: ByteSource
    directory: Directory
    entries: tuple[Entry, ...]
    names: tuple[str, ...]
    spans: tuple[HeadSpan, ...]


class _Listing(NamedTuple):
    entries: tuple[Entry, ...]
    names: tuple[str, ...]
    spans: tuple[HeadSpan, ...]


def read_contents(
    source: ByteSource, expected_layout: TensorLayout | None, limits: Limits
) -> Contents:
    """Read the directory of an archive in two requests at most.

    Raises
    ------
    UpdateRejected
        If there is no such directory, or the names of its members are not those of the model.
    """
    source = _WithTail(source, TAIL_BYTES)
    directory = read_directory(source, limits.header_bytes)
    listing = _listing((directory.data, directory.offset))
    if expected_layout:
        difference = name_difference(expected_layout, listing.names)
        if difference:
            raise UpdateRejected(difference)
    return Contents(source, directory, *listing)


def read_archive(
    contents: Contents, limits: Limits, *, max_requests: int, readers: int = 1
) -> Archive:
    """Read the headers of all members, with so many requests at the same time.

    Raises
    ------
    UpdateRejected
        If a member is not an array that can be read without executing or guessing anything, or if the
        headers need more requests or bytes than the limits allow.
    """
    if len(contents.spans) > max_requests:
        raise UpdateRejected(
            f"npz of {len(contents.entries)} arrays, the headers of which take {len(contents.spans)} "
            f"requests to read, at most {max_requests} are sent: use safetensors"
        )
    heads = _read_heads(contents, limits, readers)
    return _archive((contents.directory.data, contents.directory.offset, heads))


class _WithTail:
    """A source whose last bytes have been read already."""

    def __init__(self, source: ByteSource, length: int) -> None:
        self._source = source
        self._start = max(0, source.size - length)
        self._tail = read_view(source, self._start, length)
        self.size = source.size
        self.local = source.local

    def read_into(self, offset: int, buffer: Buffer) -> None:
        if offset < self._start:
            self._source.read_into(offset, buffer)
        else:
            buffer[:] = self._tail[offset - self._start :][: len(buffer)]


@cache_by_weight(weigh=lambda key: len(key[0]), small=SMALL_BYTES_KEPT)
def _listing(key: tuple[bytes, int]) -> _Listing:
    entries = parse_directory(*key)
    names = array_names(entry.name for entry in entries)
    return _Listing(entries, tuple(names), tuple(_head_spans(entries)))


def _head_spans(entries: Sequence[Entry]) -> Iterator[HeadSpan]:
    """Yield few ranges for many headers, with small members and the bytes between two headers."""
    start = stop = 0
    numbers: list[int] = []
    for number in sorted(range(len(entries)), key=lambda number: entries[number].offset):
        begin = entries[number].offset
        length = entries[number].stop - begin
        end = begin + (length if length <= SMALL_BYTES else HEAD_BYTES)
        if numbers and (begin - stop > MAX_HEAD_GAP_BYTES or end - start > MAX_SPAN_BYTES):
            yield HeadSpan(start, stop, tuple(numbers))
            numbers = []
        start, stop = start if numbers else begin, end
        numbers.append(number)
    if numbers:
        yield HeadSpan(start, stop, tuple(numbers))


def _read_heads(contents: Contents, limits: Limits, readers: int) -> tuple[bytes, ...]:
    """Return the local and the npy header of each member, in the order of the directory."""
    heads = [b""] * len(contents.entries)
    total = 0
    for span, block in _blocks(contents.source, contents.spans, readers):
        for number in span.numbers:
            entry = contents.entries[number]
            try:
                heads[number] = _head(block, span.start, entry, contents.directory.crcs[number])
            except UpdateRejected as error:
                raise UpdateRejected(f"npz member {quoted(entry.name)}: {error}") from error
            total += len(heads[number])
        if total > limits.array_headers_bytes:
            raise UpdateRejected(f"npz headers of more than {limits.array_headers_bytes} bytes")
    return tuple(heads)


def _blocks(
    source: ByteSource, spans: Sequence[HeadSpan], readers: int
) -> Iterator[tuple[HeadSpan, memoryview]]:
    """Yield the bytes of each span, read ``readers`` at a time."""

    def block(span: HeadSpan) -> memoryview:
        return read_view(source, span.start, span.stop - span.start)

    if source.local or readers == 1 or len(spans) == 1:
        yield from ((span, block(span)) for span in spans)
        return
    with ThreadPoolExecutor(readers, "headers") as pool:
        for first in range(0, len(spans), readers):
            batch = spans[first : first + readers]
            yield from zip(batch, pool.map(block, batch), strict=True)


def _head(block: memoryview, start: int, entry: Entry, crc: int) -> bytes:
    """Return the headers of a member without time and CRC, which do not affect their meaning.

    ``block`` has the bytes of the object from ``start`` on. The headers are checked later.
    """
    at = entry.offset - start
    name, extra = _LOCAL_LENGTHS.unpack_from(block, at)
    begin = at + zip_format.LOCAL.size + name + extra
    data = block[begin : min(begin + entry.compressed, entry.stop - start)]
    if entry.deflated:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data = memoryview(inflate(inflater, data, npy.MAX_HEADER_BYTES))
    elif len(data) == entry.size:
        check_crc(zlib.crc32(data), crc)
    header = data[: npy.header_bytes(data)]
    local = block[at : at + _VOLATILE.start], _ZEROS, block[at + _VOLATILE.stop : begin]
    return b"".join((*local, header))


@cache_by_weight(weigh=lambda key: len(key[0]) + sum(map(len, key[2])), small=SMALL_BYTES_KEPT)
def _archive(key: tuple[bytes, int, tuple[bytes, ...]]) -> Archive:
    directory, offset, heads = key
    entries, names, _ = _listing((directory, offset))
    members = []
    for entry, name, head in zip(entries, names, heads, strict=True):
        try:
            members.append(_member(entry, name, head))
        except UpdateRejected as error:
            raise UpdateRejected(f"npz member {quoted(entry.name)}: {error}") from error
    numbers = number_order(names) or tuple(range(len(members)))
    ordered = tuple(members[number] for number in numbers)
    layout = TensorLayout(tuple(member.tensor for member in ordered))
    return Archive(shared_index(layout, _offsets(ordered)), ordered, numbers)


def _offsets(members: Sequence[Member]) -> tuple[int, ...]:
    """Return the positions of the values: in what is unpacked, or after that in the object."""
    after = sum(member.tensor.nbytes for member in members if not member.ranged)
    offsets = []
    unpacked = 0
    for member in members:
        if member.ranged:
            offsets.append(after + member.values_at)
        else:
            offsets.append(unpacked)
            unpacked += member.tensor.nbytes
    return tuple(offsets)


def _member(entry: Entry, name: str, head: bytes) -> Member:
    local_bytes = local_header_bytes(entry, head)
    header = npy.parse_header(head[local_bytes:])
    tensor = Tensor(name, header.dtype, header.shape)
    if header.length + tensor.nbytes != entry.size:
        found = entry.size - header.length
        raise UpdateRejected(f"{tensor} takes {tensor.nbytes} bytes, not {found}")
    return Member(entry, tensor, header, local_bytes)
