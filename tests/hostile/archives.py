"""Functions that write npz archives, hostile ones among them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

EIGHT = bytes(8)

Member = tuple[str, bytes]


def npy(array: Any = (1.0, 2.0), dtype: Any = "<f4") -> bytes:
    """Return a .npy file, by default of two float32."""
    file = io.BytesIO()
    np.save(file, np.asarray(array, dtype))
    return file.getvalue()


def npy_header(header: bytes, data: bytes = EIGHT, version: bytes = b"\1\0") -> bytes:
    """Return a .npy file with a header of any text."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def npz(*members: Member, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of any members, which may be duplicates."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.compress_type = compression
            archive.NameToInfo.pop(name, None)  # or a duplicate would be a warning
            archive.writestr(info, data)
    return file.getvalue()


def deflated(*members: Member) -> bytes:
    """Return an archive of deflated members."""
    return npz(*members, compression=zipfile.ZIP_DEFLATED)


def good() -> bytes:
    """Return a valid archive."""
    return npz(("x.npy", npy()))


def patched(data: bytes, *patches: tuple[int, bytes]) -> bytes:
    """Return the data with bytes replaced; negative positions count from the end."""
    changed = bytearray(data)
    for place, replacement in patches:
        place %= len(data)
        changed[place : place + len(replacement)] = replacement
    return bytes(changed)


def _directory_at(data: bytes) -> int:
    offset: int = struct.unpack("<L", data[-6:-2])[0]
    return offset


def local_patch(data: bytes, field: int, value: bytes) -> bytes:
    """Return the archive with a field of its first local header replaced."""
    return patched(data, (field, value))


def directory_patch(data: bytes, field: int, value: bytes) -> bytes:
    """Return the archive with a field of the first entry of its directory replaced."""
    return patched(data, (_directory_at(data) + field, value))


def both_patched(data: bytes, field: int, value: bytes) -> bytes:
    """Return the archive with a field replaced in the local header and in the directory."""
    return directory_patch(local_patch(data, field, value), field + 2, value)


def flipped(data: bytes, place: int) -> bytes:
    """Return the data with one bit flipped."""
    place %= len(data)
    return patched(data, (place, bytes([data[place] ^ 1])))


def lying_bomb() -> bytes:
    """Return 64 MiB of zeros that the directory declares as a hundred float32."""
    honest = npy(np.zeros(100), "<f4")
    bomb = honest + bytes(64 << 20)
    data = deflated(("x.npy", bomb))
    return directory_patch(data, 24, struct.pack("<L", len(honest)))


def bomb(megabytes: int = 64) -> bytes:
    """Return zeros that deflate a thousandfold, correctly declared."""
    return deflated(("x.npy", npy(np.zeros(megabytes << 20), "u1")))


def overlapping() -> bytes:
    """Return an archive with two entries for the same bytes: a bomb without recursion."""
    data = npz(("x.npy", npy()), ("y.npy", npy()))
    directory = _directory_at(data)
    second = data.index(b"PK\1\2", directory + 4)
    first_offset = data[directory + 42 : directory + 46]
    return patched(data, (second + 42, first_offset))


def running_into_the_next() -> bytes:
    """Return a local header that is longer than the sizes in the directory allow."""
    data = npz(("x.npy", b"extra" + npy()), ("y.npy", npy()))
    return local_patch(data, 28, b"\5\0")


def quine_like() -> bytes:
    """Return an archive in an archive."""
    return npz(("x.npz", npz(("x.npy", npy()))))


def pickled() -> bytes:
    """Return an array of objects with a pickle that would run code."""

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("code of a client ran",)

    file = io.BytesIO()
    np.savez(file, allow_pickle=True, x=np.array([Harm()], object))
    return file.getvalue()


def with_member(payload: bytes, compression: int = zipfile.ZIP_STORED) -> Callable[[], bytes]:
    return lambda: npz(("x.npy", payload), compression=compression)


def raw_deflate(payload: bytes, declared: int, crc: int) -> bytes:
    """Return an archive with one member of any bytes that is declared as deflated."""
    data = npz(("x.npy", payload))
    data = both_patched(data, 8, struct.pack("<H", 8))
    data = both_patched(data, 22, struct.pack("<L", declared))
    return both_patched(data, 14, struct.pack("<L", crc))


def cut_deflate() -> bytes:
    whole = npy(np.random.default_rng(0).standard_normal(1000))
    packed = zlib.compress(whole, wbits=-15)
    return raw_deflate(packed[:-9], len(whole), zlib.crc32(whole))


def padded_deflate() -> bytes:
    whole = npy(np.arange(1000))
    packed = zlib.compress(whole, wbits=-15)
    return raw_deflate(packed + b"more", len(whole), zlib.crc32(whole))


def damaged_deflate() -> bytes:
    whole = npy(np.zeros(5000))
    stored_block = struct.pack("<BHH", 0, len(whole) - 8, (len(whole) - 8) ^ 0xFFFF) + whole[:-8]
    block_of_no_type = b"\x07"
    return raw_deflate(stored_block + block_of_no_type, len(whole), zlib.crc32(whole))


def many_headers() -> bytes:
    """Return thousands of headers of two kilobytes, which deflate to almost nothing."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(2000)
    member = npy_header(header)
    return deflated(*((f"{n}.npy", member) for n in range(5000)))


def zip64_misplaced() -> bytes:
    data = npz(("x.npy", npy()))
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 0, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 7, 1)
    return data[:-22] + record + locator + data[-22:]


def large_directory() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(40):
            info = zipfile.ZipInfo(f"{number}.npy")
            info.comment = b"x" * 60_000
            archive.writestr(info, npy())
    return file.getvalue()
