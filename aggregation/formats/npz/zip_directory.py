"""The central directory of a zip archive, read by ranges of an object.

`zipfile` is not used: it reads a central directory of any size at once, is lenient if an archive can be
understood in two ways (bytes before it, comments, overlapping members), and sends requests for each
member. What `numpy.savez` and `zipfile` write is read here; the rest of the format is rejected.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ...errors import UpdateRejected, quoted
from ...sources import ByteSource, read
from . import zip_format

#: The longest name of a member, so that a few kilobytes contain all that comes before its data.
MAX_NAME_BYTES = 1024

#: The highest compression ratio of deflate (https://zlib.net/zlib_tech.html).
_MAX_RATIO = 1032

_CRC_AND_LENGTHS = struct.Struct("<16xL8xHHH12x")  # of an entry of the directory
_VOLATILE = slice(12, 20)  # its time, date and CRC
_ZEROS = bytes(8)


class Entry(NamedTuple):
    """One member, as the central directory describes it.

    Parameters
    ----------
    name : str
    raw_name : bytes
    deflated : bool
    compressed, size : int
        Bytes in the archive, and after inflating.
    offset, stop : int
        The first bytes of its local header, and of the next member or the directory.
    """

    name: str
    raw_name: bytes
    deflated: bool
    compressed: int
    size: int
    offset: int
    stop: int


class Directory(NamedTuple):
    """A central directory, without the values that differ between archives of the same structure.

    Parameters
    ----------
    data : bytes
        Its bytes, with times and CRCs set to zero.
    offset : int
        Its first byte in the object.
    crcs : tuple of int
        CRC-32 of each member.
    """

    data: bytes
    offset: int
    crcs: tuple[int, ...]


def read_directory(source: ByteSource, max_bytes: int) -> Directory:
    """Find and read the central directory at the end of an object.

    Raises
    ------
    UpdateRejected
        If the object does not end with one, or it has more than ``max_bytes``.
    """
    count, size, offset, end = _read_end(source)
    if offset + size != end:
        raise UpdateRejected(
            f"npz directory of {size} bytes at {offset} does not end at {end}, where it should"
        )
    if size > max_bytes:
        raise UpdateRejected(f"npz directory of {size} bytes, at most {max_bytes} are read")
    data = bytearray(read(source, offset, size))
    crcs = []
    position = 0
    try:
        while position < size:
            crc, name, extra, comment = _CRC_AND_LENGTHS.unpack_from(data, position)
            data[position + _VOLATILE.start : position + _VOLATILE.stop] = _ZEROS
            crcs.append(crc)
            position += zip_format.CENTRAL.size + name + extra + comment
    except struct.error as error:
        raise UpdateRejected("npz directory is cut off within an entry") from error
    if position != size:
        raise UpdateRejected("npz directory is cut off within an entry")
    if len(crcs) != count:
        raise UpdateRejected(f"npz directory has {len(crcs)} entries, not {count} as it says")
    return Directory(bytes(data), offset, tuple(crcs))


def _read_end(source: ByteSource) -> tuple[int, int, int, int]:
    """Return the number of members, the size and offset of the directory, and the position after it."""
    end = source.size - zip_format.END.size
    if end < 0:
        raise UpdateRejected(f"not npz: {source.size} bytes are too few for an archive")
    record = zip_format.END.unpack(read(source, end, zip_format.END.size))
    signature, disk, first_disk, here, count, size, offset, comment = record
    if signature != zip_format.END_SIGNATURE or comment:
        raise UpdateRejected("not npz: the object does not end with a zip directory")
    large = _read_end64(source, end)
    if large:
        disk, first_disk, here, count, size, offset = large
        end -= zip_format.END64.size + zip_format.LOCATOR64.size
    if disk or first_disk or here != count:
        raise UpdateRejected("npz archive is one of several volumes")
    return count, size, offset, end


def _read_end64(source: ByteSource, end: int) -> tuple[int, ...] | None:
    """Return the 64-bit numbers if there are any, directly before the 32-bit ones at ``end``."""
    at = end - zip_format.LOCATOR64.size
    if at < zip_format.END64.size:
        return None
    signature, _, place, _ = zip_format.LOCATOR64.unpack(
        read(source, at, zip_format.LOCATOR64.size)
    )
    if signature != zip_format.LOCATOR64_SIGNATURE:
        return None
    at -= zip_format.END64.size
    signature, _, _, _, *numbers = zip_format.END64.unpack(read(source, at, zip_format.END64.size))
    if signature != zip_format.END64_SIGNATURE or place != at:
        raise UpdateRejected("npz archive has a zip64 record that is not where it should be")
    return tuple(numbers)


def parse_directory(directory: bytes, offset: int) -> tuple[Entry, ...]:
    """Return the members in a directory that `read_directory` found at ``offset``.

    Raises
    ------
    UpdateRejected
        If a member is encrypted, compressed in an unknown way, or overlaps another.
    """
    entries = []
    position = 0
    while position < len(directory):
        entry, length = _parse_entry(directory, position)
        entries.append(entry)
        position += length
    return _with_stops(entries, offset)


def _parse_entry(directory: bytes, position: int) -> tuple[Entry, int]:
    fields = zip_format.CENTRAL.unpack_from(directory, position)
    signature, _, _, flags, method, _, _, _, *places, name, extra, comment, disk, _, _, at = fields
    if signature != zip_format.CENTRAL_SIGNATURE or disk:
        raise UpdateRejected("npz directory is damaged: an entry is not where it should be")
    begin = position + zip_format.CENTRAL.size
    raw_name = directory[begin : begin + name]
    where = f"npz member {quoted(_decoded(raw_name, flags))}"
    if name > MAX_NAME_BYTES:
        raise UpdateRejected(f"{where}: a name of {name} bytes, at most {MAX_NAME_BYTES} are read")
    if flags & zip_format.ENCRYPTED:
        raise UpdateRejected(f"{where} is encrypted, or a patch")
    if method not in (zip_format.STORED, zip_format.DEFLATED):
        raise UpdateRejected(f"{where} is compressed with method {method}, only deflate is read")
    compressed, size, offset = *places, at
    if zip_format.MAX32 in (compressed, size, offset):
        more = directory[begin + name : begin + name + extra]
        compressed, size, offset = _zip64(where, more, (compressed, size, offset))
    if method == zip_format.STORED and compressed != size:
        raise UpdateRejected(f"{where} is stored as {compressed} bytes but said to have {size}")
    if size > _MAX_RATIO * compressed:
        raise UpdateRejected(f"{where}: {compressed} bytes cannot inflate to {size}")
    entry = Entry(
        _decoded(raw_name, flags),
        raw_name,
        method == zip_format.DEFLATED,
        compressed,
        size,
        offset,
        offset,
    )
    return entry, zip_format.CENTRAL.size + name + extra + comment


def _decoded(raw_name: bytes, flags: int) -> str:
    """Decode a name as `zipfile` does, so that it is the same as for `numpy.load`."""
    try:
        return raw_name.decode("utf-8" if flags & zip_format.UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise UpdateRejected(f"npz member {quoted(raw_name)}: the name is not UTF-8") from error


def _zip64(where: str, extra: bytes, places: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return sizes and offset; those that do not fit in 32 bits are in the extra field."""
    compressed, size, offset = places
    values = iter(_zip64_values(extra))
    try:
        size = next(values) if size == zip_format.MAX32 else size
        compressed = next(values) if compressed == zip_format.MAX32 else compressed
        offset = next(values) if offset == zip_format.MAX32 else offset
    except StopIteration:
        raise UpdateRejected(f"{where}: its zip64 sizes are missing") from None
    return compressed, size, offset


def _zip64_values(extra: bytes) -> tuple[int, ...]:
    while len(extra) >= 4:
        kind, length = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if kind == zip_format.ZIP64:
            values = extra[4 : 4 + length]
            return tuple(
                int.from_bytes(values[at : at + 8], "little") for at in range(0, len(values) - 7, 8)
            )
        extra = extra[4 + length :]
    return ()


def _with_stops(entries: list[Entry], end: int) -> tuple[Entry, ...]:
    """Return the entries, each with the first byte of the next member."""
    order = sorted(range(len(entries)), key=lambda number: entries[number].offset, reverse=True)
    for number in order:
        entry = entries[number]
        if entry.offset + zip_format.LOCAL.size + len(entry.raw_name) + entry.compressed > end:
            raise UpdateRejected(f"npz member {quoted(entry.name)}: it overlaps what follows it")
        entries[number] = entry._replace(stop=end)
        end = entry.offset
    return tuple(entries)
