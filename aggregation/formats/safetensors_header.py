"""The header of a safetensors file: JSON of a fixed form, parsed one tensor at a time.

Parsed as a whole, a hostile header would take twenty-five times its length in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from reprlib import repr as abridged
from typing import Any, NamedTuple

from ..errors import UpdateRejected, quoted
from ..layout import DTYPE_NAMES, DTYPES, Tensor, TensorLayout, is_indexable

#: The name under which a header has free text instead of a tensor.
METADATA = "__metadata__"

_BLANKS = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
#: Strings of Unicode text: without lone surrogates, which JSON can express.
_TEXT = (
    r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r'|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})[^"\\\x00-\x1f]*+)*+"'
)
_PAIR = rf"[ \t\r\n]*{_TEXT}[ \t\r\n]*:[ \t\r\n]*{_TEXT}[ \t\r\n]*"
#: Matched at once, since a client may write a million pairs.
_METADATA_OBJECT = re.compile(rf"\{{(?:{_PAIR}(?:,{_PAIR})*+|[ \t\r\n]*)\}}")
#: The name of the metadata entry that says how an update is compressed, and a pair with this name. The
#: metadata are not parsed for it, since they may have a million pairs. A pair whose name is written with
#: escapes is free text.
COMPRESSION = "compression"
_COMPRESSION_PAIR = re.compile(rf'(?<!\\)"{COMPRESSION}"[ \t\r\n]*:[ \t\r\n]*({_TEXT})')
#: An entry contains no objects. 64 dimensions and two offsets take less than 2 KiB.
_ENTRY = re.compile(r"\{[^{}]{0,4096}\}")


class PlacedTensor(NamedTuple):
    """A tensor and its bytes ``begin`` to ``end``, counted from the end of the header."""

    tensor: Tensor
    begin: int
    end: int


def parse_tensors(header: bytes) -> tuple[list[PlacedTensor], str]:
    """Return the tensors that a header describes, in its order, and how they are compressed.

    The compression is the text of that entry of the metadata, empty without one.

    Raises
    ------
    UpdateRejected
        If the header is not well formed, or uses a name twice.
    """
    tensors: dict[str, PlacedTensor] = {}
    compression = ""
    for name, scanner in _entries(header):
        if name == METADATA:
            compression = _compression_in(_take_metadata(scanner)) or compression
        elif name in tensors:
            raise UpdateRejected(f"safetensors tensor {quoted(name)}: the name is used twice")
        else:
            tensors[name] = _placed_tensor(name, scanner.take(_ENTRY))
    return list(tensors.values()), compression


def _compression_in(metadata: str) -> str:
    pairs = _COMPRESSION_PAIR.findall(metadata)
    return json.loads(pairs[-1]) if pairs else ""


def parse_metadata(header: bytes) -> dict[str, str]:
    """Return the free text that a header contains."""
    metadata: dict[str, str] = {}
    if METADATA.encode() not in header and b"\\" not in header:  # the name, not even escaped
        return metadata
    for name, scanner in _entries(header):
        if name == METADATA:
            metadata.update(json.loads(_take_metadata(scanner)))
        else:
            scanner.take(_ENTRY)
    return metadata


def encode_header(layout: TensorLayout, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes before the first tensor: length and header, padded to eight bytes."""
    entries = [f'"{METADATA}":{_compact(dict(metadata))}'] if metadata else []
    begin = 0
    for tensor in layout.tensors:
        end = begin + tensor.nbytes
        dtype, shape = DTYPE_NAMES[tensor.dtype], _compact(tensor.shape)
        entries.append(
            f'{_compact(tensor.name)}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'
        )
        begin = end
    header = f"{{{','.join(entries)}}}".encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _Scanner:
    """A position in JSON text. Each method but `peek` moves it behind what it found."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def peek(self, token: str) -> bool:
        """Return whether a token comes next, after blanks."""
        match = _BLANKS.match(self._text, self._position)
        self._position = match.end() if match else self._position
        return self._text.startswith(token, self._position)

    def skip(self, token: str) -> bool:
        """Skip a token if it comes next; return whether it did."""
        found = self.peek(token)
        self._position += len(token) if found else 0
        return found

    def expect(self, token: str) -> None:
        """Skip a token, which must come next."""
        if not self.skip(token):
            found = quoted(self._text[self._position : self._position + 20])
            raise UpdateRejected(f"safetensors header is not JSON: expected {token}, found {found}")

    def take(self, pattern: re.Pattern[str]) -> str | None:
        """Return the text that comes next if it matches, otherwise None."""
        self.peek("")
        match = pattern.match(self._text, self._position)
        if not match:
            return None
        self._position = match.end()
        return match[0]

    def string(self) -> str:
        """Return the string that comes next."""
        token = self.take(_STRING)
        if token is None:
            raise UpdateRejected("safetensors header is not JSON: expected a string")
        try:
            value: str = json.loads(token)
            value.encode()  # raises for lone surrogates, which JSON can express and Unicode text cannot
        except ValueError as error:
            raise UpdateRejected(
                f"safetensors header: {quoted(token)} is not Unicode text"
            ) from error
        return value

    def members(self) -> Iterator[str]:
        """Yield the names of an object; the caller takes each value before the next name."""
        self.expect("{")
        if self.skip("}"):
            return
        while True:
            name = self.string()
            self.expect(":")
            yield name
            if self.skip("}"):
                return
            self.expect(",")

    @property
    def rest(self) -> str:
        """The text from the position on."""
        return self._text[self._position :]


def _entries(header: bytes) -> Iterator[tuple[str, _Scanner]]:
    """Yield the names in a header, with the scanner positioned at their values."""
    try:
        scanner = _Scanner(header.decode())
    except UnicodeDecodeError as error:
        raise UpdateRejected("safetensors header is not JSON: it is not UTF-8") from error
    for name in scanner.members():
        yield name, scanner
    if scanner.rest.strip(" \t\r\n"):
        raise UpdateRejected("safetensors header is not JSON: text after its end")


def _take_metadata(scanner: _Scanner) -> str:
    """Return the text of the object that contains the metadata."""
    if scanner.skip("null"):
        return "{}"
    text = scanner.take(_METADATA_OBJECT)
    if text is None:
        raise UpdateRejected(f"safetensors {METADATA} must map strings to strings")
    return text


def _placed_tensor(name: str, text: str | None) -> PlacedTensor:
    """Return the tensor that an entry describes."""
    where = f"safetensors tensor {quoted(name)}"
    entry = _parse_entry(where, text)
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    except KeyError as error:
        raise UpdateRejected(f"{where}: expected dtype, shape and data_offsets") from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        given = quoted(abridged(dtype))
        raise UpdateRejected(f"{where}: dtype {given}, expected one of {', '.join(DTYPES)}")
    if not _are_counts(shape) or not is_indexable(shape):
        raise UpdateRejected(f"{where}: shape {quoted(abridged(shape))} is not one of an array")
    if not _are_counts(offsets) or len(offsets) != 2:
        given = quoted(abridged(offsets))
        raise UpdateRejected(f"{where}: data_offsets {given} is not a pair of positions")
    tensor = Tensor(name, DTYPES[dtype], tuple(shape))
    begin, end = offsets
    if end - begin != tensor.nbytes:
        raise UpdateRejected(f"{where}: {tensor} takes {tensor.nbytes} bytes, not {end - begin}")
    return PlacedTensor(tensor, begin, end)


def _parse_entry(where: str, text: str | None) -> dict[str, Any]:
    if text is None:
        raise UpdateRejected(f"{where}: expected dtype, shape and data_offsets")
    try:
        entry: dict[str, Any] = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise UpdateRejected(f"{where}: {quoted(error)}") from error
    return entry


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise ValueError("a field is given twice")
    return entry


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)
