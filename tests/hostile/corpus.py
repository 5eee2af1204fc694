"""Hostile files, made by code: each with the reason for which it must be rejected.

Used by the tests of the core, and wherever a whole system is to be shown that it stands them. What a
file may do wrong only in the light of its model (a missing tensor, another dtype) is in
`tests/hostile/test_corpus.py`.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """A file in a format, and a phrase of the rejection it must get."""

    format: str
    make: Callable[[], bytes]
    reason: str


#: Bytes that may be unpacked to disk in the tests.
SPOOL_BYTES = 16 << 20

CASES: dict[str, Case] = {}


def _case(name: str, format: str, make: Callable[[], bytes], reason: str) -> None:
    assert name not in CASES, name
    CASES[name] = Case(format, make, reason)


# --- safetensors -------------------------------------------------------------------------------


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with a header of any kind, which may lie about its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """An entry of the header; by default that of two float32."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = bytes(8)


def _safetensors_cases() -> None:
    def case(name: str, reason: str, header: object, data: bytes = EIGHT, **lies: int) -> None:
        _case(
            f"safetensors {name}", "safetensors", lambda: safetensors(header, data, **lies), reason
        )

    def deep(lists: int) -> bytes:
        nested = b"[" * lists + b"]" * lists
        return b'{"x":{"dtype":"F32","shape":%b,"data_offsets":[0,8]}}' % nested

    good = {"x": entry()}
    _case("safetensors empty", "safetensors", bytes, "0 bytes are too few")
    _case("safetensors of seven bytes", "safetensors", lambda: bytes(7), "7 bytes are too few")
    case("header beyond the file", "header of 1000 bytes in an object of", good, length=1000)
    case("header of exabytes", "header of 9223372036854775808 bytes, at most", good, length=1 << 63)
    case("header of megabytes", "bytes, at most", b" " * (3 << 20))
    case("truncated data", "describes 8 bytes of data, the object has 7", good, bytes(7))
    case("trailing data", "describes 8 bytes of data, the object has 9", good, bytes(9))
    case("no header", "not JSON", b"")
    case("cut header", "not JSON", b'{"x":{"dtype":"F32"')
    case("header of NULs", "not JSON", bytes(64))
    case("header not UTF-8", "not JSON", b'{"\xff":1}')
    case("header a list", "not a JSON object", [good])
    case("header a string", "not a JSON object", '"x"')
    case("header deeply nested", "not JSON", b"[" * 100_000)
    case("header a number of too many digits", "not JSON", b'{"x":' + b"9" * 5000 + b"}")
    case("shape nested as deep as JSON goes", "is not one of an array", deep(900))
    case("a million lists", "is not one of an array", _header_of_lists())
    case("duplicate names", "a name stands twice", b'{"x":{},"x":{}}')
    case("duplicate keys", "a name stands twice", b'{"x":{"dtype":"F32","dtype":"F64"}}')
    case("name that is not text", "a name is not Unicode", b'{"\\ud800":{}}')
    case("metadata a list", "must map strings to strings", {"__metadata__": [], **good})
    case("metadata of numbers", "must map strings to strings", {"__metadata__": {"a": 1}, **good})
    case("entry not an object", "expected dtype, shape and data_offsets", {"x": 3})
    case("entry without a dtype", "expected dtype, shape and data_offsets", {"x": {"shape": []}})
    case("entry with more", "expected dtype, shape and data_offsets", {"x": {**entry(), "y": 1}})
    for dtype in ("F8_E4M3", "BOOL", "f32", "", "O", 7, None, ["F32"]):
        case(f"dtype {dtype!r}", "expected one of F16, BF16", {"x": entry(dtype)})
    shapes: list[Any] = [-2, [-2], [2.0], [True, 2], ["2"], None, {}, [1 << 63], [1 << 40] * 2]
    for shape in shapes:
        case(f"shape {shape!r}", "is not one of an array", {"x": entry(shape=shape)})
    case("shape of 65 dimensions", "is not one of an array", {"x": entry(shape=[1] * 65)})
    case(
        "shape that overflows beside a zero",
        "is not one of an array",
        {"x": entry(shape=[0, 1 << 62, 1 << 62], offsets=[0, 0])},
    )
    for offsets in ([-8, 0], [0], [0, 8, 9], [0.0, 8.0], "08", [0, 1 << 64], None):
        case(f"offsets {offsets!r}", "is not a pair", {"x": entry(offsets=offsets)})
    case("offsets reversed", "takes 8 bytes, not -8", {"x": entry(offsets=[8, 0])})
    case("more bytes than the shape", "takes 8 bytes, not 12", {"x": entry(offsets=[0, 12])})
    case("fewer bytes than the shape", "takes 8 bytes, not 4", {"x": entry(offsets=[0, 4])})
    case("a hole", "'y' leaves 4 bytes unused", {"x": entry(), "y": entry(offsets=[12, 20])})
    case("a hole at the beginning", "'x' leaves 1 bytes unused", {"x": entry(offsets=[1, 9])})
    case("overlap", "'y' overlaps", {"x": entry(), "y": entry(offsets=[4, 12])})
    case("the same bytes twice", "'y' overlaps", {"x": entry(), "y": entry()})
    case("data beyond the file", "describes 16 bytes", {"x": entry(), "y": entry(offsets=[8, 16])})
    case(
        "terabytes",
        "describes 4398046511104 bytes of data, the object has 8",
        {"x": entry(shape=[1 << 40], offsets=[0, 1 << 42])},
    )


def _header_of_lists() -> bytes:
    """What takes the most memory while it is parsed: twenty bytes for each of the header."""
    return b'{"x":{"dtype":"F32","data_offsets":[0,8],"shape":[%b[]]}}' % (b"[]," * 690_000)


# --- npz ---------------------------------------------------------------------------------------

Member = tuple[str, bytes]


def npy(array: Any = (1.0, 2.0), dtype: Any = "<f4") -> bytes:
    """A .npy file; by default of two float32."""
    file = io.BytesIO()
    np.save(file, np.asarray(array, dtype))
    return file.getvalue()


def npy_header(header: bytes, data: bytes = EIGHT, version: bytes = b"\1\0") -> bytes:
    """A .npy file with a header of any text."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def npz(*members: Member, compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of any members, duplicates and all."""
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
    """An archive whose members are deflated."""
    return npz(*members, compression=zipfile.ZIP_DEFLATED)


def patched(data: bytes, *patches: tuple[int, bytes]) -> bytes:
    """The data with bytes replaced; places below zero count from the end."""
    changed = bytearray(data)
    for place, replacement in patches:
        place %= len(data)
        changed[place : place + len(replacement)] = replacement
    return bytes(changed)


def _directory_at(data: bytes) -> int:
    offset: int = struct.unpack("<L", data[-6:-2])[0]
    return offset


def local_patch(data: bytes, field: int, value: bytes) -> bytes:
    """The archive with a field of its first local header replaced."""
    return patched(data, (field, value))


def directory_patch(data: bytes, field: int, value: bytes) -> bytes:
    """The archive with a field of the first entry of its directory replaced."""
    return patched(data, (_directory_at(data) + field, value))


def both_patched(data: bytes, field: int, value: bytes) -> bytes:
    """The archive with a field replaced both in the local header and, two bytes on, the directory."""
    return directory_patch(local_patch(data, field, value), field + 2, value)


def flipped(data: bytes, place: int) -> bytes:
    """The data with one bit turned."""
    place %= len(data)
    return patched(data, (place, bytes([data[place] ^ 1])))


def _lying_bomb() -> bytes:
    """64 MiB of zeros that the directory gives out as a hundred float32."""
    honest = npy(np.zeros(100), "<f4")
    bomb = honest + bytes(64 << 20)
    data = deflated(("x.npy", bomb))
    return directory_patch(data, 24, struct.pack("<L", len(honest)))


def _bomb(megabytes: int = 64) -> bytes:
    """Zeros that deflate a thousandfold, honestly declared."""
    return deflated(("x.npy", npy(np.zeros(megabytes << 20), "u1")))


def _overlapping() -> bytes:
    """Two entries of the directory that are the same bytes: a bomb without recursion."""
    data = npz(("x.npy", npy()), ("y.npy", npy()))
    directory = _directory_at(data)
    second = data.index(b"PK\1\2", directory + 4)
    first_offset = data[directory + 42 : directory + 46]
    return patched(data, (second + 42, first_offset))


def _running_into_the_next() -> bytes:
    """A local header that says it is longer than the directory's sizes leave room for."""
    data = npz(("x.npy", b"extra" + npy()), ("y.npy", npy()))
    return local_patch(data, 28, b"\5\0")


def _quine_like() -> bytes:
    """An archive in an archive."""
    return npz(("x.npz", npz(("x.npy", npy()))))


def _pickled() -> bytes:
    """An array of objects, whose pickle would run code."""

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("code of a stranger ran",)

    file = io.BytesIO()
    np.savez(file, allow_pickle=True, x=np.array([Harm()], object))
    return file.getvalue()


def _with_member(payload: bytes, compression: int = zipfile.ZIP_STORED) -> Callable[[], bytes]:
    return lambda: npz(("x.npy", payload), compression=compression)


def _raw_deflate(payload: bytes, declared: int, crc: int) -> bytes:
    """An archive with one member, said to be deflated, of any bytes."""
    data = npz(("x.npy", payload))
    data = both_patched(data, 8, struct.pack("<H", 8))
    data = both_patched(data, 22, struct.pack("<L", declared))
    return both_patched(data, 14, struct.pack("<L", crc))


def _cut_deflate() -> bytes:
    whole = npy(np.random.default_rng(0).standard_normal(1000))
    packed = zlib.compress(whole, wbits=-15)
    return _raw_deflate(packed[:-9], len(whole), zlib.crc32(whole))


def _padded_deflate() -> bytes:
    whole = npy(np.arange(1000))
    packed = zlib.compress(whole, wbits=-15)
    return _raw_deflate(packed + b"more", len(whole), zlib.crc32(whole))


def _damaged_deflate() -> bytes:
    whole = npy(np.zeros(1000))
    stored_block = struct.pack("<BHH", 0, len(whole) - 8, (len(whole) - 8) ^ 0xFFFF) + whole[:-8]
    block_of_no_type = b"\x07"
    return _raw_deflate(stored_block + block_of_no_type, len(whole), zlib.crc32(whole))


def _many_headers() -> bytes:
    """Thousands of headers of two kilobytes that take next to nothing, deflated."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(2000)
    member = npy_header(header)
    return deflated(*((f"{n}.npy", member) for n in range(5000)))


def _zip64_misplaced() -> bytes:
    data = npz(("x.npy", npy()))
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 0, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 7, 1)
    return data[:-22] + record + locator + data[-22:]


def _large_directory() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(40):
            info = zipfile.ZipInfo(f"{number}.npy")
            info.comment = b"x" * 60_000
            archive.writestr(info, npy())
    return file.getvalue()


def _npz_cases() -> None:
    def case(name: str, reason: str, make: Callable[[], bytes]) -> None:
        _case(f"npz {name}", "npz", make, reason)

    def good() -> bytes:
        return npz(("x.npy", npy()))

    def header_case(name: str, reason: str, header: bytes, **more: bytes) -> None:
        case(f"npy header {name}", reason, _with_member(npy_header(header, **more)))

    case("empty", "0 bytes are too few", bytes)
    case("not an archive", "does not end with a zip directory", lambda: bytes(1000))
    case("cut in the middle", "does not end with a zip directory", lambda: good()[:150])
    case("cut by a byte", "does not end with a zip directory", lambda: good()[:-1])
    case("with bytes before it", "does not end at", lambda: b"#!/bin/sh\n" + good())
    case("with bytes after it", "does not end with a zip directory", lambda: good() + b"\n")
    case(
        "with a comment",
        "does not end with a zip directory",
        lambda: patched(good(), (-2, b"\2\0")) + b"hi",
    )
    case("in volumes", "one of several volumes", lambda: patched(good(), (-18, b"\1\0")))
    case("with another count", "1 entries, not 2", lambda: patched(good(), (-14, b"\2\0\2\0")))
    case("with a longer directory", "does not end at", lambda: patched(good(), (-10, b"\xff")))
    case("with a directory elsewhere", "does not end at", lambda: patched(good(), (-6, b"\xff")))
    case(
        "with a directory of megabytes",
        "bytes, at most 2097152 are read",
        _large_directory,
    )
    case(
        "with an entry cut off",
        "cut off within an entry",
        lambda: directory_patch(good(), 28, b"\xff\xff"),
    )
    case("with a damaged entry", "directory is damaged", lambda: directory_patch(good(), 0, b"PX"))
    case("with a zip64 record elsewhere", "not where it should be", _zip64_misplaced)
    case(
        "with zip64 sizes that are missing",
        "zip64 sizes are missing",
        lambda: directory_patch(good(), 20, b"\xff" * 8),
    )
    case("encrypted", "is encrypted", lambda: both_patched(good(), 6, b"\1\0"))
    case(
        "encrypted by its own header",
        "describe it differently",
        lambda: local_patch(good(), 6, b"\1\0"),
    )
    for method, name in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")):
        case(f"compressed with {name}", "only deflate is read", _with_member(npy(), method))
    case("stored in two sizes", "is stored as", lambda: directory_patch(good(), 20, b"\1"))
    case(
        "named otherwise by its own header",
        "describe it differently",
        lambda: local_patch(good(), 30, b"y"),
    )
    case(
        "deflated by its own header",
        "describe it differently",
        lambda: local_patch(good(), 8, b"\x08"),
    )
    case(
        "without a local header",
        "not where the directory says",
        lambda: local_patch(good(), 0, b"XX"),
    )
    case("with data that run into the next", "overlaps", _running_into_the_next)
    case(
        "with sizes that run into the next",
        "overlaps",
        lambda: directory_patch(good(), 20, struct.pack("<2L", 200, 200)),
    )
    case(
        "with an offset beyond the file",
        "overlaps",
        lambda: directory_patch(good(), 42, b"\xff\xff\xff"),
    )
    case("with members that overlap", "overlaps what follows", _overlapping)
    case("a bomb", "bytes to unpack, at most", _bomb)
    case("a bomb that lies", "does not inflate to the 528 bytes it declares", _lying_bomb)
    case(
        "a bomb that no deflate could make",
        "cannot inflate to 4294967294",
        lambda: directory_patch(deflated(("x.npy", npy())), 24, struct.pack("<L", 0xFFFFFFFE)),
    )
    case("a bomb of headers", "npz headers of more than", _many_headers)
    case("with an archive in it", "does not end in .npy", _quine_like)
    case("with a text in it", "does not end in .npy", lambda: npz(("readme.txt", b"hello")))
    case("with a folder in it", "may not contain slashes", lambda: npz(("folder/", b"")))
    for name in ("a/x.npy", "/etc/passwd.npy", "../x.npy", "..\\x.npy", "C:\\x.npy", "x\0.npy"):
        case(f"member {name!r}", "may not contain slashes", partial(npz, (name, npy())))
    case(
        "member not UTF-8",
        "not UTF-8",
        lambda: directory_patch(directory_patch(good(), 8, b"\0\x08"), 46, b"\xff"),
    )
    case(
        "member of two kilobytes", "a name of 2004 bytes", lambda: npz(("x" * 2000 + ".npy", npy()))
    )
    case("member twice", "it is there twice", lambda: npz(("x.npy", npy()), ("x.npy", npy())))
    case("wrong CRC", "CRC does not match", lambda: flipped(good(), good().index(b"PK\1\2") - 1))
    case(
        "wrong CRC in the directory",
        "CRC does not match",
        lambda: directory_patch(good(), 16, b"\0\0\0\0"),
    )
    case(
        "wrong CRC, deflated",
        "CRC does not match",
        lambda: directory_patch(deflated(("x.npy", npy())), 16, b"\0\0\0\0"),
    )
    case("cut deflate", "deflated data are cut off", _cut_deflate)
    case("padded deflate", "deflated data end before", _padded_deflate)
    case("damaged deflate", "deflated data are damaged", _damaged_deflate)
    case("noise for deflate", "damaged", lambda: _raw_deflate(b"\xff" * 100, 1000, 0))
    case("pickled", "pickled Python objects, which are never loaded", _pickled)
    case(
        "pickled in a structure",
        "pickled Python objects",
        _with_member(
            npy_header(b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (2,), }")
        ),
    )
    for dtype in ("?", "<c8", "<U3", "|S4", "<M8[s]", "<f2,<f2", "<f16"):
        case(f"dtype {dtype}", "expected one of F16, BF16", _with_member(npy(np.zeros(2), dtype)))
    case("member that is no array", "not an array in npy format", _with_member(b"hello, world"))
    case("member without bytes", "not an array in npy format", _with_member(b""))
    case(
        "npy of an unknown version",
        "not an array in npy format",
        _with_member(npy_header(b"", version=b"\x09\0")),
    )
    case("npy header cut off", "header is cut off", _with_member(npy()[:100]))
    case(
        "npy header of kilobytes", "npy header of 3010 bytes", _with_member(npy_header(b" " * 3000))
    )
    case("npy with fewer values", "takes 8 bytes, not 7", _with_member(npy()[:-1]))
    case("npy with more values", "takes 8 bytes, not 9", _with_member(npy() + b"\0"))
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': %b, }"
    header_case("of code", "is not understood", b"__import__('os').system('true')")
    header_case("of nested lists", "is not understood", b"[" * 1500)
    header_case("of minus signs", "is not understood", b"-" * 1500)
    header_case("without a shape", "is not understood", b"{'descr': '<f4', 'fortran_order': False}")
    header_case("with a list for a shape", "is not understood", text % b"[2]")
    header_case("with a negative shape", "is not understood", text % b"(-2,)")
    header_case("with a float in its shape", "is not understood", text % b"(2.0,)")
    header_case("with a shape that is a number", "is not one of an array", text % b"(2)")
    header_case("with commas in its shape", "is not one of an array", text % b"(2,,)")
    header_case(
        "with a shape beyond int64", "is not one of an array", text % (b"(%d,)" % (1 << 64))
    )
    header_case(
        "with a shape that overflows",
        "is not one of an array",
        text % (b"(%d,%d)" % (1 << 58, 1 << 58)),
    )
    header_case("with 65 dimensions", "is not one of an array", text % (b"(" + b"1," * 65 + b")"))
    header_case("with terabytes", "takes 4398046511104 bytes, not 8", text % (b"(%d,)" % (1 << 40)))


# --- JSON --------------------------------------------------------------------------------------


def _json_cases() -> None:
    def case(name: str, reason: str, text: bytes | Callable[[], bytes]) -> None:
        make = text if callable(text) else lambda: text
        _case(f"json {name}", "json", make, reason)

    case("empty", "ends before its list of layers", b"")
    case("blank", "ends before its list of layers", b" \n" * 1000)
    case("a million open brackets", "nested deeper than 64", b"[" * 1_000_000)
    case("a million brackets", "nested deeper than 64", b"[" * 500_000 + b"]" * 500_000)
    case("a million closing brackets", "a list ends where a number is missing", b"]" * 1_000_000)
    case("five million empty layers", "more than 20000 layers", b"[" + b"[]," * 5_000_000 + b"[]]")
    case("seven million numbers", "more than 20000 layers", b"[" + b"1," * 7_000_000 + b"1]")
    case("four million lists", "more than 1048576 lists", b"[[" + b"[0]," * 4_000_000 + b"[0]]]")
    case("beyond the cap", "at most 16777216 are read", b" " * (16 << 20) + b"[]")
    case("cut", "ends before its list of layers", b"[[1, 2], [3")
    case("cut before the end", "ends before its list of layers", b"[[1, 2], [3]")
    case("going on after the end", "not one list of layers", b"[[1]] 2")
    case("two texts", "a comma is missing", b"[[1]][[2]]")
    case("a number", "not one list of layers", b"3")
    case("an object", "found an object", b'{"w": [1, 2]}')
    case("an object as a layer", "found an object", b'[{"w": 1}]')
    case("objects as numbers", "found an object", b'[[{"w": [1]}]]')
    case("an object with duplicate keys", "found an object", b'{"w": [1], "w": [2]}')
    case("objects nested deep", "found an object", b"[[" + b'{"a":' * 200_000)
    case("1e999", "out of range of F64", b"[[1e999]]")
    case("-1e999", "out of range of F64", b"[[-1e999]]")
    case("an integer beyond float64", "out of range of F64", b"[[" + b"9" * 400 + b"]]")
    case(
        "an integer of 5000 digits",
        "a number of more than 4300 digits",
        b"[[%b]]" % (b"9" * 5000),
    )
    case(
        "an integer of megabytes",
        "a number of more than 4300 digits",
        b"[[" + b"9" * (10 << 20) + b"]]",
    )
    case("NaN", "found NaN", b"[[1, NaN]]")
    case("Infinity", "found Infinity", b"[[Infinity]]")
    case("-Infinity", "found Infinity", b"[[-Infinity]]")
    case("true", "found true", b"[[true, 1]]")
    case("false", "found false", b"[[1, false]]")
    case("null", "found null", b"[[null]]")
    case("a string", "found a string", b'[["1"]]')
    case("a string with brackets", "found a string", b'[["]", 1]]')
    case("a string without an end", "found a string", b'[["' + b"x" * (1 << 20))
    case("ragged", "a list of 1 beside one of 2", b"[[[1, 2], [3]]]")
    case("ragged, later", "a list of 3 beside one of 2", b"[[[1, 2], [3, 4], [5, 6, 7]]]")
    case("ragged at depth", "a list of 1 beside one of 2", b"[[[[1], [2]], [[3]]]]")
    case("numbers beside a list", "ragged, numbers beside a list", b"[[[1], 2]]")
    case("a list beside numbers", "ragged, a list beside numbers", b"[[1, [2]]]")
    case("an empty list beside a full one", "a list of 1 beside one of 0", b"[[[], [1]]]")
    case("a comma too many", "a list ends where a number is missing", b"[[1, 2,]]")
    case("a comma at the beginning", "found ',1'", b"[[,1]]")
    case("nothing but a comma", "a number is missing beside a comma", b"[[,]]")
    case(
        "a number of megabytes",
        "a number of more than 4300 digits",
        b"[[0." + b"0" * (10 << 20) + b"]]",
    )
    case("two commas", "found '1,,2'", b"[[1,,2]]")
    case("a comma too few", "found '1 2'", b"[[1 2]]")
    case("a comma too few between lists", "a comma is missing", b"[[1] [2]]")
    case("hexadecimal", "found 'x10'", b"[[0x10]]")
    case("leading zeros", "found '01'", b"[[01]]")
    case("a plus sign", "found '+1'", b"[[+1]]")
    case("a bare point", "found '.5'", b"[[.5]]")
    case("a comment", "found '/* no */", b"[[1 /* no */]]")
    case("not UTF-8", "found text that is not ASCII", b"[[1, \xff]]")
    case("UTF-16", "expected numbers", "[[1]]".encode("utf-16"))
    case("a byte order mark", "found text that is not ASCII", b"\xef\xbb\xbf[[1]]")
    case("digits of another script", "found text that is not ASCII", "[[\u0661]]".encode())
    case("zero bytes", "expected numbers", bytes(1000))
    case("terminal escapes", "expected numbers", b"[[\x1b[31m]]")


_safetensors_cases()
_npz_cases()
_json_cases()
