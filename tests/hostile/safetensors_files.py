"""Hostile safetensors files."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.hostile.case import Cases


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a file with any header and, on request, a wrong length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """Return an entry of the header, by default that of two float32."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = bytes(8)
ENTRY = json.dumps(entry()).encode()


SAFETENSORS_CASES = Cases()


def _case(name: str, reason: str, header: object, data: bytes = EIGHT, **lies: int) -> None:
    SAFETENSORS_CASES.add(
        f"safetensors {name}", "safetensors", lambda: safetensors(header, data, **lies), reason
    )


def _deep(lists: int) -> bytes:
    nested = b"[" * lists + b"]" * lists
    return b'{"x":{"dtype":"F32","shape":%b,"data_offsets":[0,8]}}' % nested


def _header_of_lists() -> bytes:
    """Return a header that takes twenty times its length in memory if it is parsed as a whole."""
    return b'{"x":{"dtype":"F32","data_offsets":[0,8],"shape":[%b[]]}}' % (b"[]," * 690_000)


GOOD = {"x": entry()}


def _add_broken_headers() -> None:
    good = GOOD
    SAFETENSORS_CASES.add("safetensors empty", "safetensors", bytes, "0 bytes are too few")
    SAFETENSORS_CASES.add(
        "safetensors of seven bytes", "safetensors", lambda: bytes(7), "7 bytes are too few"
    )
    _case("header beyond the file", "header of 1000 bytes in an object of", good, length=1000)
    _case(
        "header of exabytes", "header of 9223372036854775808 bytes, at most", good, length=1 << 63
    )
    _case("header of megabytes", "bytes, at most", b" " * (3 << 20))
    _case("truncated data", "describes 8 bytes of data, the object has 7", good, bytes(7))
    _case("trailing data", "describes 8 bytes of data, the object has 9", good, bytes(9))


def _add_broken_text() -> None:
    good = GOOD
    _case("no header", "not JSON", b"")
    _case("cut header", "expected dtype, shape and data_offsets", b'{"x":{"dtype":"F32"')
    _case("header of NULs", "not JSON", bytes(64))
    _case("header not UTF-8", "not JSON", b'{"\xff":1}')
    _case("header a list", "not JSON: expected {", [good])
    _case("header a string", "not JSON: expected {", '"x"')
    _case("header deeply nested", "not JSON", b"[" * 100_000)
    _case(
        "entry a number of many digits",
        "expected dtype, shape and data_offsets",
        b'{"x":' + b"9" * 5000 + b"}",
    )
    _case("shape nested as deep as JSON goes", "is not one of an array", _deep(900))
    _case("a million lists", "expected dtype, shape and data_offsets", _header_of_lists())
    _case("duplicate names", "the name is used twice", b'{"x":%b,"x":%b}' % (ENTRY, ENTRY))
    _case("duplicate keys", "a field is given twice", b'{"x":{"dtype":"F32","dtype":"F64"}}')
    _case("name that is not text", "is not Unicode text", b'{"\\ud800":%b}' % ENTRY)
    _case("text after the end", "text after its end", b'{"x":%b} {}' % ENTRY)
    _case("a comma too many", "expected a string", b'{"x":%b,}' % ENTRY)
    _case("a name that does not end", "expected a string", b'{"x' + b"y" * 100_000)
    _case("metadata a list", "must map strings to strings", {"__metadata__": [], **good})
    _case("metadata of numbers", "must map strings to strings", {"__metadata__": {"a": 1}, **good})
    _case("entry not an object", "expected dtype, shape and data_offsets", {"x": 3})
    _case("entry without a dtype", "expected dtype, shape and data_offsets", {"x": {"shape": []}})
    _case(
        "entry with an object",
        "expected dtype, shape and data_offsets",
        {"x": {**entry(), "y": {}}},
    )
    for text in (b'"\\ud800"', b'"\\q"', b'"b",', b"nul"):
        header = b'{"__metadata__":{"a":%b}}' % text
        _case(f"metadata {text.decode()}", "must map strings to strings", header, b"")
    _case("metadata of objects", "must map strings to strings", {"__metadata__": {"a": {}}, **good})


def _add_broken_entries() -> None:
    for dtype in ("F8_E4M3", "F4", "f32", "", "O", 7, None, ["F32"]):
        _case(f"dtype {dtype!r}", "expected one of F16, BF16", {"x": entry(dtype)})
    shapes: list[Any] = [-2, [-2], [2.0], [True, 2], ["2"], None, [1 << 63], [1 << 40] * 2]
    for shape in shapes:
        _case(f"shape {shape!r}", "is not one of an array", {"x": entry(shape=shape)})
    _case("shape of 65 dimensions", "is not one of an array", {"x": entry(shape=[1] * 65)})
    _case(
        "shape that overflows beside a zero",
        "is not one of an array",
        {"x": entry(shape=[0, 1 << 62, 1 << 62], offsets=[0, 0])},
    )
    for offsets in ([-8, 0], [0], [0, 8, 9], [0.0, 8.0], "08", [0, 1 << 64], None):
        _case(f"offsets {offsets!r}", "is not a pair", {"x": entry(offsets=offsets)})
    _case("offsets reversed", "takes 8 bytes, not -8", {"x": entry(offsets=[8, 0])})
    _case("more bytes than the shape", "takes 8 bytes, not 12", {"x": entry(offsets=[0, 12])})
    _case("fewer bytes than the shape", "takes 8 bytes, not 4", {"x": entry(offsets=[0, 4])})
    _case("a hole", "'y' leaves 4 bytes unused", {"x": entry(), "y": entry(offsets=[12, 20])})
    _case("a hole at the beginning", "'x' leaves 1 bytes unused", {"x": entry(offsets=[1, 9])})
    _case("overlap", "'y' overlaps", {"x": entry(), "y": entry(offsets=[4, 12])})
    _case("the same bytes twice", "'y' overlaps", {"x": entry(), "y": entry()})
    _case("data beyond the file", "describes 16 bytes", {"x": entry(), "y": entry(offsets=[8, 16])})
    _case(
        "terabytes",
        "describes 4398046511104 bytes of data, the object has 8",
        {"x": entry(shape=[1 << 40], offsets=[0, 1 << 42])},
    )


_add_broken_headers()
_add_broken_text()
_add_broken_entries()
