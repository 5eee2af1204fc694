"""safetensors: eight bytes of length, a JSON header, then the tensors' bytes without a gap.

Format: https://github.com/huggingface/safetensors, section "Format". Only the header is read here,
under a size cap; what it claims is checked before a byte of a tensor is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from reprlib import repr as abridged
from typing import Any

from ..cache import keep_recent
from ..errors import UpdateRejected, quoted
from ..layout import (
    DTYPE_NAMES,
    DTYPES,
    Tensor,
    TensorLayout,
    is_indexable,
    number_order,
)
from ..sources import ByteSource, read
from ..weights import TensorIndex, Weights, shared_index

#: A header of this size describes some twenty thousand tensors, and one made to hurt takes some
#: fifty megabytes while it is parsed.
MAX_HEADER_BYTES = 2 << 20

#: The parsed contents of recent headers up to this size, and of one larger header, are kept.
SMALL_HEADER_BYTES = 128 << 10

#: Read at once in the hope that the whole header is in it: one request instead of two.
FIRST_READ_BYTES = 64 << 10

_METADATA = "__metadata__"


def open_safetensors(source: ByteSource) -> Weights:
    """Read and check the header of a safetensors object.

    Raises
    ------
    UpdateRejected
        If the object is not a well-formed safetensors file: the message says what is wrong.
    """
    header = _read_header(source)
    base = 8 + len(header)
    index, data_bytes = _checked(header)
    if base + data_bytes != source.size:
        raise UpdateRejected(
            f"safetensors header describes {data_bytes} bytes of data, "
            f"the object has {source.size - base}"
        )
    return Weights(index=index, source=source, format="safetensors", base=base)


def read_metadata(source: ByteSource) -> dict[str, str]:
    """The free text that a safetensors object carries.

    Read when asked for, and not kept with every update: a client may write megabytes of it.
    """
    metadata: dict[str, str] = _parse(_read_header(source)).get(_METADATA, {})
    return metadata


def _read_header(source: ByteSource) -> bytes:
    beginning = read(source, 0, FIRST_READ_BYTES)
    if len(beginning) < 8:
        raise UpdateRejected(f"not safetensors: {source.size} bytes are too few for a header")
    length = int.from_bytes(beginning[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise UpdateRejected(
            f"safetensors header of {length} bytes, at most {MAX_HEADER_BYTES} are read"
        )
    if 8 + length > source.size:
        raise UpdateRejected(
            f"safetensors header of {length} bytes in an object of {source.size} bytes"
        )
    header = beginning[8 : 8 + length]
    return header + read(source, 8 + len(header), length - len(header))


@keep_recent(weigh=len, small=SMALL_HEADER_BYTES)
def _checked(header: bytes) -> tuple[TensorIndex, int]:
    """What a header says, and how many bytes of data follow it."""
    entries = _parse(header)
    metadata = entries.pop(_METADATA, {})
    if not (isinstance(metadata, dict) and all(map(_is_text, metadata.values()))):
        raise UpdateRejected(f"safetensors {_METADATA} must map strings to strings")
    placed = [_placed(name, entry) for name, entry in entries.items()]
    placed.sort(key=lambda place: (*place[1:], place[0].name))
    end = 0
    for tensor, begin, stop in placed:
        if begin != end:
            gap = begin - end
            problem = "overlaps the one before" if gap < 0 else f"leaves {gap} bytes unused"
            raise UpdateRejected(f"safetensors tensor {quoted(tensor.name)} {problem}")
        end = stop
    order = number_order([tensor.name for tensor, _, _ in placed]) or range(len(placed))
    layout = TensorLayout(tuple(placed[position][0] for position in order))
    return shared_index(layout, tuple(placed[position][1] for position in order)), end


def _parse(header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise UpdateRejected(f"safetensors header is not JSON: {quoted(error)}") from error
    if not isinstance(entries, dict):
        raise UpdateRejected("safetensors header is not a JSON object")
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name stands twice")
    if not all(map(_is_text, entries)):
        raise ValueError("a name is not Unicode text")
    return entries


def _is_text(value: Any) -> bool:
    """Whether it is a string without lone surrogates, which JSON can hold and UTF-8 cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _placed(name: str, entry: Any) -> tuple[Tensor, int, int]:
    """The tensor an entry describes, and the bytes it claims: ``(tensor, begin, stop)``."""
    where = f"safetensors tensor {quoted(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UpdateRejected(f"{where}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        given = quoted(abridged(dtype))
        raise UpdateRejected(f"{where}: dtype {given}, expected one of {', '.join(DTYPES)}")
    if not _are_counts(shape) or not is_indexable(shape):
        raise UpdateRejected(f"{where}: shape {quoted(abridged(shape))} is not one of an array")
    if not _are_counts(offsets) or len(offsets) != 2:
        given = quoted(abridged(offsets))
        raise UpdateRejected(f"{where}: data_offsets {given} is not a pair of positions")
    tensor = Tensor(name, DTYPES[dtype], tuple(shape))
    begin, stop = offsets
    if stop - begin != tensor.nbytes:
        raise UpdateRejected(f"{where}: {tensor} takes {tensor.nbytes} bytes, not {stop - begin}")
    return tensor, begin, stop


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)


class SafetensorsEncoder:
    """A header that depends on the layout alone, then the values as they are."""

    def __init__(
        self,
        layout: TensorLayout,
        metadata: Mapping[str, str] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._layout = layout
        self._metadata = metadata or {}
        self._position: int = state["position"] if state else 0

    def header(self) -> bytes:
        return encode_header(self._layout, self._metadata)

    def encode(self, start_byte: int, data: memoryview) -> Iterator[memoryview]:
        if start_byte != self._position:
            raise ValueError(f"bytes from {start_byte} given, those from {self._position} are next")
        yield data
        self._position += len(data)

    def footer(self) -> bytes:
        return b""

    def state(self) -> dict[str, Any]:
        return {"position": self._position}


def encode_header(layout: TensorLayout, metadata: Mapping[str, str]) -> bytes:
    """The bytes that come before the first tensor: length and header, padded to eight bytes."""
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for tensor in layout.tensors:
        end = begin + tensor.nbytes
        entries[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header
