"""Hostile npz files."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from functools import partial

import numpy as np

from tests.hostile.archives import (
    bomb,
    both_patched,
    cut_deflate,
    damaged_deflate,
    deflated,
    directory_patch,
    flipped,
    good,
    large_directory,
    local_patch,
    lying_bomb,
    many_headers,
    npy,
    npy_header,
    npz,
    overlapping,
    padded_deflate,
    patched,
    pickled,
    quine_like,
    raw_deflate,
    running_into_the_next,
    with_member,
    zip64_misplaced,
)
from tests.hostile.case import Cases

NPZ_CASES = Cases()


def _case(name: str, reason: str, make: Callable[[], bytes]) -> None:
    NPZ_CASES.add(f"npz {name}", "npz", make, reason)


def _header_case(name: str, reason: str, header: bytes) -> None:
    _case(f"npy header {name}", reason, with_member(npy_header(header)))


def _add_broken_archives() -> None:
    _case("empty", "0 bytes are too few", bytes)
    _case("not an archive", "does not end with a zip directory", lambda: bytes(1000))
    _case("cut in the middle", "does not end with a zip directory", lambda: good()[:150])
    _case("cut by a byte", "does not end with a zip directory", lambda: good()[:-1])
    _case("with bytes before it", "does not end at", lambda: b"#!/bin/sh\n" + good())
    _case("with bytes after it", "does not end with a zip directory", lambda: good() + b"\n")
    _case(
        "with a comment",
        "does not end with a zip directory",
        lambda: patched(good(), (-2, b"\2\0")) + b"hi",
    )
    _case("in volumes", "one of several volumes", lambda: patched(good(), (-18, b"\1\0")))
    _case("with another count", "1 entries, not 2", lambda: patched(good(), (-14, b"\2\0\2\0")))
    _case("with a longer directory", "does not end at", lambda: patched(good(), (-10, b"\xff")))
    _case("with a directory elsewhere", "does not end at", lambda: patched(good(), (-6, b"\xff")))
    _case(
        "with a directory of megabytes",
        "bytes, at most 2097152 are read",
        large_directory,
    )
    _case(
        "with an entry cut off",
        "cut off within an entry",
        lambda: directory_patch(good(), 28, b"\xff\xff"),
    )
    _case("with a damaged entry", "directory is damaged", lambda: directory_patch(good(), 0, b"PX"))
    _case("with a zip64 record elsewhere", "not where it should be", zip64_misplaced)
    _case(
        "with zip64 sizes that are missing",
        "zip64 sizes are missing",
        lambda: directory_patch(good(), 20, b"\xff" * 8),
    )


def _add_broken_members() -> None:
    _case("encrypted", "is encrypted", lambda: both_patched(good(), 6, b"\1\0"))
    _case(
        "encrypted by its own header",
        "describe it differently",
        lambda: local_patch(good(), 6, b"\1\0"),
    )
    for method, name in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")):
        _case(f"compressed with {name}", "only deflate is read", with_member(npy(), method))
    _case("stored in two sizes", "is stored as", lambda: directory_patch(good(), 20, b"\1"))
    _case(
        "named otherwise by its own header",
        "describe it differently",
        lambda: local_patch(good(), 30, b"y"),
    )
    _case(
        "deflated by its own header",
        "describe it differently",
        lambda: local_patch(good(), 8, b"\x08"),
    )
    _case(
        "without a local header",
        "not where the directory says",
        lambda: local_patch(good(), 0, b"XX"),
    )
    _case("with data that run into the next", "overlaps", running_into_the_next)
    _case(
        "with sizes that run into the next",
        "overlaps",
        lambda: directory_patch(good(), 20, struct.pack("<2L", 200, 200)),
    )
    _case(
        "with an offset beyond the file",
        "overlaps",
        lambda: directory_patch(good(), 42, b"\xff\xff\xff"),
    )
    _case("with members that overlap", "overlaps what follows", overlapping)


def _add_bombs() -> None:
    _case("a bomb", "bytes to unpack, at most", bomb)
    _case("a bomb that lies", "does not inflate to the 528 bytes it declares", lying_bomb)
    _case(
        "a bomb that no deflate could make",
        "cannot inflate to 4294967294",
        lambda: directory_patch(deflated(("x.npy", npy())), 24, struct.pack("<L", 0xFFFFFFFE)),
    )
    _case("a bomb of headers", "npz headers of more than", many_headers)


def _add_other_contents() -> None:
    _case("with an archive in it", "does not end in .npy", quine_like)
    _case("with a text in it", "does not end in .npy", lambda: npz(("readme.txt", b"hello")))
    _case("with a folder in it", "does not end in .npy", lambda: npz(("folder/", b"")))
    for name in ("/etc/passwd.npy", "../x.npy", "a/../x.npy", "a//x.npy", "a/.npy", "./x.npy"):
        _case(f"member {name!r}", "must not be a path with", partial(npz, (name, npy())))
    for name in ("..\\x.npy", "C:\\x.npy", "x\0.npy"):
        _case(f"member {name!r}", "must not contain backslashes", partial(npz, (name, npy())))
    _case(
        "member of an ambiguous name",
        "numpy has two arrays of this name",
        lambda: npz(("x.npy", npy()), ("x.npy.npy", npy())),
    )
    _case(
        "member not UTF-8",
        "not UTF-8",
        lambda: directory_patch(directory_patch(good(), 8, b"\0\x08"), 46, b"\xff"),
    )
    _case(
        "member of two kilobytes", "a name of 2004 bytes", lambda: npz(("x" * 2000 + ".npy", npy()))
    )
    _case("member twice", "the name is used twice", lambda: npz(("x.npy", npy()), ("x.npy", npy())))


def _add_damaged_data() -> None:
    _case("wrong CRC", "CRC does not match", lambda: flipped(good(), good().index(b"PK\1\2") - 1))
    _case(
        "wrong CRC in the directory",
        "CRC does not match",
        lambda: directory_patch(good(), 16, b"\0\0\0\0"),
    )
    _case(
        "wrong CRC, deflated",
        "CRC does not match",
        lambda: directory_patch(deflated(("x.npy", npy())), 16, b"\0\0\0\0"),
    )
    _case("cut deflate", "deflated data are cut off", cut_deflate)
    _case("padded deflate", "deflated data end before", padded_deflate)
    _case("damaged deflate", "deflated data are damaged", damaged_deflate)
    _case("noise for deflate", "damaged", lambda: raw_deflate(b"\xff" * 100, 1000, 0))


def _add_broken_arrays() -> None:
    _case("pickled", "pickled Python objects, which are never loaded", pickled)
    _case(
        "pickled in a structure",
        "pickled Python objects",
        with_member(
            npy_header(b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (2,), }")
        ),
    )
    for dtype in ("<c8", "<U3", "|S4", "<M8[s]", "<f2,<f2", "<f16"):
        _case(f"dtype {dtype}", "expected one of F16, BF16", with_member(npy(np.zeros(2), dtype)))
    _case("member that is no array", "not an array in npy format", with_member(b"hello, world"))
    _case("member without bytes", "not an array in npy format", with_member(b""))
    _case(
        "npy of an unknown version",
        "not an array in npy format",
        with_member(npy_header(b"", version=b"\x09\0")),
    )
    _case("npy header cut off", "header is cut off", with_member(npy()[:100]))
    _case(
        "npy header of kilobytes",
        "npy header of 11010 bytes",
        with_member(npy_header(b" " * 11_000)),
    )
    _case("npy with fewer values", "takes 8 bytes, not 7", with_member(npy()[:-1]))
    _case("npy with more values", "takes 8 bytes, not 9", with_member(npy() + b"\0"))


def _add_broken_headers() -> None:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': %b, }"
    _header_case("of code", "is not understood", b"__import__('os').system('true')")
    _header_case("of nested lists", "is not understood", b"[" * 1500)
    _header_case("of minus signs", "is not understood", b"-" * 1500)
    _header_case(
        "without a shape", "is not understood", b"{'descr': '<f4', 'fortran_order': False}"
    )
    _header_case("with a list for a shape", "is not one of an array", text % b"[2]")
    _header_case("with a negative shape", "is not understood", text % b"(-2,)")
    _header_case("with a float in its shape", "is not understood", text % b"(2.0,)")
    _header_case("with a shape that is a number", "is not one of an array", text % b"(2)")
    _header_case("with commas in its shape", "is not one of an array", text % b"(2,,)")
    _header_case(
        "with a shape beyond int64", "is not one of an array", text % (b"(%d,)" % (1 << 64))
    )
    _header_case(
        "with a shape that overflows",
        "is not one of an array",
        text % (b"(%d,%d)" % (1 << 58, 1 << 58)),
    )
    _header_case("with 65 dimensions", "is not one of an array", text % (b"(" + b"1," * 65 + b")"))
    _header_case(
        "with terabytes", "takes 4398046511104 bytes, not 8", text % (b"(%d,)" % (1 << 40))
    )
    _header_case("without an end", "is not understood", (text % b"(2,)").rstrip(b"} "))
    _header_case(
        "with a key twice", "is not understood", b"{'shape': (2,), " + (text % b"(2,)")[1:]
    )
    _header_case(
        "with another key", "is not understood", b"{'order': True, " + (text % b"(2,)")[1:]
    )
    _header_case(
        "with an order that is no truth value",
        "is not understood",
        b"{'descr': '<f4', 'fortran_order': 'True', 'shape': (2,)}",
    )


_add_broken_archives()
_add_broken_members()
_add_bombs()
_add_other_contents()
_add_damaged_data()
_add_broken_arrays()
_add_broken_headers()
