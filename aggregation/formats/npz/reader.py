"""npz: a zip archive of .npy files, as `numpy.savez` writes it.

Members that are stored as they lie in memory are read by ranges; what cannot be (deflated, Fortran
order, big-endian) is unpacked once to disk.

The CRC of a member is checked where all of it is read anyway: when it is unpacked, and when it is
small. To check a large stored one would take a second read of the object, and tell no more than the
store does, which checks what it receives; safetensors has no CRCs at all.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ...cache import keep_recent
from ...errors import UpdateRejected, quoted
from ...layout import Tensor, TensorLayout, layout_difference, number_order
from ...sources import Buffer, ByteSource, read_view
from ...weights import MAX_GAP_BYTES, MAX_SPAN_BYTES, TensorIndex, Weights, shared_index
from ..spool import NeedsSpool, Spool, SpoolFile
from . import fortran, npy, zip_format
from .zip_archive import (
    Directory,
    Entry,
    check_crc,
    inflate,
    local_header_bytes,
    member_blocks,
    parse_directory,
    read_directory,
)

#: Read first, in the hope that the whole directory is in it.
TAIL_BYTES = 64 << 10

#: What is read of a member in order to see its headers: more than the longest ones take.
HEAD_BYTES = 4096

#: Headers of all members together; so many describe some twenty thousand.
MAX_HEADS_BYTES = 8 << 20

#: Reads it may take to see the headers of a stranger's members. As many large ones are gigabytes.
MAX_HEAD_READS = 4096

#: The parsed contents of recent directories and headers up to this size, and of one larger, are kept.
SMALL_BYTES_KEPT = 128 << 10

#: A member up to this size is read whole along with its headers, and its CRC is checked.
SMALL_BYTES = 64 << 10

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
        Length of the local header, behind which the member's bytes begin.
    """

    entry: Entry
    tensor: Tensor
    header: npy.Header
    local_bytes: int

    @property
    def ranged(self) -> bool:
        """Whether its values lie in the object as they lie in the flattened model."""
        reordered = self.header.fortran and len(self.tensor.shape) > 1
        return not (self.entry.deflated or reordered or self.header.swapped)

    @property
    def values_at(self) -> int:
        """Where its values begin in the object, if it is stored."""
        return self.entry.offset + self.local_bytes + self.header.length


@dataclass(frozen=True, eq=False)
class Archive:
    """What an archive holds, as far as archives of the same structure agree.

    Parameters
    ----------
    index : TensorIndex
        Where the values are, in the object behind what is unpacked of it. Archives that were
        compressed share it, though no two are compressed to the same sizes.
    members : tuple of Member
        In the order of the layout.
    numbers : tuple of int
        Position of each of them in the directory.
    """

    index: TensorIndex
    members: tuple[Member, ...]
    numbers: tuple[int, ...]

    @cached_property
    def unpacked(self) -> tuple[Member, ...]:
        """The members that cannot be read by ranges."""
        return tuple(member for member in self.members if not member.ranged)


def peek_npz(source: ByteSource, *, trusted: bool = False) -> TensorLayout:
    """The layout of an npz object, from its directory and the headers of its members.

    Parameters
    ----------
    source : ByteSource
        The bytes of the object.
    trusted : bool
        Whether it is no stranger's, and may take any number of reads.

    Raises
    ------
    UpdateRejected
        If the object is not an npz file that can be read without running or guessing anything.
    """
    archive, _ = _read_archive(source, trusted)
    return archive.index.layout


def open_npz(
    source: ByteSource,
    spool: Spool | None,
    expected_layout: TensorLayout | None = None,
    *,
    trusted: bool = False,
) -> Weights:
    """Read the directory and headers of an npz object, and unpack what has to be unpacked.

    Parameters
    ----------
    source : ByteSource
        The bytes of the object.
    spool : Spool, optional
        Takes in what must be unpacked.
    expected_layout : TensorLayout, optional
        If the object is laid out otherwise, it is rejected before anything is unpacked.
    trusted : bool
        As for `peek_npz`.

    Raises
    ------
    UpdateRejected
        As `peek_npz` does, and if an unpacked member is not what it declares to be.
    NeedsSpool
        If something must be unpacked, and there is no spool.
    SpoolFull
        If what must be unpacked does not fit on disk along with what is there already.
    """
    archive, crcs = _read_archive(source, trusted)
    layout = archive.index.layout
    difference = layout_difference(expected_layout, layout) if expected_layout else None
    if difference:
        raise UpdateRejected(difference)
    if not archive.unpacked:
        return Weights(index=archive.index, source=source, format="npz")
    if spool is None:
        raise NeedsSpool(layout, _bytes_to_unpack(archive), is_text=False)
    return _unpacked(source, archive, crcs, spool)


def _read_archive(source: ByteSource, trusted: bool) -> tuple[Archive, Sequence[int]]:
    source = _WithTail(source, TAIL_BYTES)
    directory = read_directory(source)
    plan = _plan((directory.data, directory.offset))
    if len(plan.spans) > MAX_HEAD_READS and not trusted:
        raise UpdateRejected(f"npz of {len(plan.entries)} arrays, too many of them large")
    heads = _read_heads(source, plan, directory)
    return _archive((directory.data, directory.offset, heads)), directory.crcs


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


class _HeadSpan(NamedTuple):
    """A range of the object that has the headers of some members."""

    start: int
    stop: int
    numbers: tuple[int, ...]


class _Plan(NamedTuple):
    """The members a directory lists, and what to read in order to know what they are."""

    entries: tuple[Entry, ...]
    spans: tuple[_HeadSpan, ...]


@keep_recent(weigh=lambda key: len(key[0]), small=SMALL_BYTES_KEPT)
def _plan(key: tuple[bytes, int]) -> _Plan:
    entries = parse_directory(*key)
    names = set()
    for entry in entries:
        problem = name_problem(entry.name) or ("it is there twice" if entry.name in names else None)
        if problem:
            raise UpdateRejected(f"npz member {quoted(entry.name)}: {problem}")
        names.add(entry.name)
    return _Plan(entries, tuple(_head_spans(entries)))


def name_problem(name: str) -> str | None:
    """Why a member may not have this name; None if it may."""
    if any(character in name for character in "/\\\0"):
        return "the name of an array may not contain slashes, nor zero bytes"
    if not name.endswith(".npy"):
        return "it is not an array, its name does not end in .npy"
    return None


def _head_spans(entries: Sequence[Entry]) -> Iterator[_HeadSpan]:
    """Few reads for many headers: small members come whole, what lies between two is read along."""
    start = stop = 0
    numbers: list[int] = []
    for number in sorted(range(len(entries)), key=lambda number: entries[number].offset):
        begin = entries[number].offset
        length = entries[number].stop - begin
        end = begin + (length if length <= SMALL_BYTES else HEAD_BYTES)
        if numbers and (begin - stop > MAX_GAP_BYTES or end - start > MAX_SPAN_BYTES):
            yield _HeadSpan(start, stop, tuple(numbers))
            numbers = []
        start, stop = start if numbers else begin, end
        numbers.append(number)
    if numbers:
        yield _HeadSpan(start, stop, tuple(numbers))


def _read_heads(source: ByteSource, plan: _Plan, directory: Directory) -> tuple[bytes, ...]:
    """The local and the npy header of each member, in the order of the directory."""
    heads = [b""] * len(plan.entries)
    total = 0
    for span in plan.spans:
        block = read_view(source, span.start, span.stop - span.start)
        for number in span.numbers:
            entry = plan.entries[number]
            try:
                heads[number] = _head(block, span.start, entry, directory.crcs[number])
            except UpdateRejected as error:
                raise UpdateRejected(f"npz member {quoted(entry.name)}: {error}") from error
            total += len(heads[number])
        if total > MAX_HEADS_BYTES:
            raise UpdateRejected(f"npz headers of more than {MAX_HEADS_BYTES} bytes")
    return tuple(heads)


def _head(block: memoryview, start: int, entry: Entry, crc: int) -> bytes:
    """The headers of a member, without time and CRC: all that its meaning depends on.

    ``block`` has the bytes of the object from ``start`` on. What is returned is yet to be checked.
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


@keep_recent(weigh=lambda key: len(key[0]) + sum(map(len, key[2])), small=SMALL_BYTES_KEPT)
def _archive(key: tuple[bytes, int, tuple[bytes, ...]]) -> Archive:
    directory, offset, heads = key
    members = []
    for entry, head in zip(_plan((directory, offset)).entries, heads, strict=True):
        try:
            members.append(_member(entry, head))
        except UpdateRejected as error:
            raise UpdateRejected(f"npz member {quoted(entry.name)}: {error}") from error
    names = [member.tensor.name for member in members]
    numbers = number_order(names) or tuple(range(len(members)))
    ordered = tuple(members[number] for number in numbers)
    layout = TensorLayout(tuple(member.tensor for member in ordered))
    return Archive(shared_index(layout, _offsets(ordered)), ordered, numbers)


def _offsets(members: Sequence[Member]) -> tuple[int, ...]:
    """Where the values are: in what is unpacked, and behind that in the object."""
    behind = sum(member.tensor.nbytes for member in members if not member.ranged)
    offsets = []
    unpacked = 0
    for member in members:
        if member.ranged:
            offsets.append(behind + member.values_at)
        else:
            offsets.append(unpacked)
            unpacked += member.tensor.nbytes
    return tuple(offsets)


def _member(entry: Entry, head: bytes) -> Member:
    local_bytes = local_header_bytes(entry, head)
    header = npy.parse_header(head[local_bytes:])
    tensor = Tensor(entry.name.removesuffix(".npy"), header.dtype, header.shape)
    if header.length + tensor.nbytes != entry.size:
        found = entry.size - header.length
        raise UpdateRejected(f"{tensor} takes {tensor.nbytes} bytes, not {found}")
    return Member(entry, tensor, header, local_bytes)


class _Spliced:
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


def _bytes_to_unpack(archive: Archive) -> int:
    """What the members that cannot be read by ranges take in a spool, while they are unpacked."""
    sizes = [member.entry.size for member in archive.unpacked]
    turned = [member.entry.size for member in archive.unpacked if member.header.fortran]
    return sum(sizes) + max(turned, default=0)


def _unpacked(source: ByteSource, archive: Archive, crcs: Sequence[int], spool: Spool) -> Weights:
    """The weights with what cannot be read by ranges copied to the spool."""
    needed = _bytes_to_unpack(archive)
    if needed > spool.max_bytes:
        raise UpdateRejected(
            f"npz that takes {needed} bytes to unpack, at most {spool.max_bytes} are there"
        )
    with spool.new_file() as file:
        for member, number in zip(archive.members, archive.numbers, strict=True):
            if member.ranged:
                continue
            try:
                _unpack(source, member, crcs[number], spool, file)
            except UpdateRejected as error:
                raise UpdateRejected(f"npz member {quoted(member.entry.name)}: {error}") from error
        unpacked: ByteSource = file.source()
        if len(archive.unpacked) < len(archive.members):
            unpacked = _Spliced(unpacked, source)
        return Weights(index=archive.index, source=unpacked, format="npz")


def _unpack(source: ByteSource, member: Member, crc: int, spool: Spool, file: SpoolFile) -> None:
    """Append the values of a member, in the model's order and byte order."""
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
