"""safetensors: eight bytes of length, a JSON header, then the tensors' bytes without gaps.

Format: https://github.com/huggingface/safetensors, section "Format". Only the header is read here, and
what it claims is checked before a byte of a tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..cache import cache_by_weight
from ..errors import AggregationError, UpdateRejected, quoted
from ..layout import TensorLayout, number_order
from ..sources import ByteSource, read
from ..weights import TensorIndex, Weights, shared_index
from .encoder import ValuesEncoder
from .int8 import INT8
from .limits import LIBRARY_HEADER_BYTES, TRUSTED, Limits
from .safetensors_header import METADATA, encode_header, parse_metadata, parse_tensors
from .topk import TOPK

#: The parsed contents of recent headers up to this size, and of one larger header, are kept.
SMALL_HEADER_BYTES = 128 << 10

#: The size of the first read. It contains most headers, which saves a second request.
FIRST_READ_BYTES = 64 << 10


#: The compressions of updates that are differences, by their names in the metadata.
COMPRESSIONS = (INT8, TOPK)


def open_safetensors(
    source: ByteSource,
    limits: Limits,
    expected_layout: TensorLayout | None = None,
    *,
    compressed: bool = False,
) -> Weights:
    """Read and check the header of a safetensors object.

    Parameters
    ----------
    source : ByteSource
    limits : Limits
    expected_layout : TensorLayout, optional
        The model's, whose dtypes the tensors of a compressed update get.
    compressed : bool
        Whether the object may be compressed.

    Raises
    ------
    UpdateRejected
        If the object is not a well-formed safetensors file, or its header is longer than the limit, or it
        is compressed and may not be.
    """
    header = _read_header(source, limits)
    base = 8 + len(header)
    index, data_bytes, compression = _parse(header)
    if base + data_bytes != source.size:
        raise UpdateRejected(
            f"safetensors header describes {data_bytes} bytes of data, "
            f"the object has {source.size - base}"
        )
    weights = Weights(index=index, source=source, format="safetensors", base=base)
    if compression not in COMPRESSIONS:
        return weights
    if not compressed:
        raise UpdateRejected(only_differences(compression))
    # Most models have no compressed updates, and a cold start does not pay for their readers.
    if compression == INT8:
        from .int8_reader import open_int8

        return open_int8(weights, expected_layout)
    from .topk_reader import open_topk

    return open_topk(weights, expected_layout)


def only_differences(compression: str) -> str:
    """Return why weights cannot be compressed."""
    return (
        f"compression is {compression!r}, and only updates that are differences may be compressed"
    )


def read_metadata(source: ByteSource) -> dict[str, str]:
    """Return the free text in a safetensors object that has been opened before.

    It is read on request and not kept with every update, since a client may write megabytes of it.
    """
    return parse_metadata(_read_header(source, TRUSTED))


def _read_header(source: ByteSource, limits: Limits) -> bytes:
    beginning = read(source, 0, FIRST_READ_BYTES)
    if len(beginning) < 8:
        raise UpdateRejected(f"not safetensors: {source.size} bytes are too few for a header")
    length = int.from_bytes(beginning[:8], "little")
    if length > limits.header_bytes:
        raise UpdateRejected(
            f"safetensors header of {length} bytes, at most {limits.header_bytes} are read"
        )
    if 8 + length > source.size:
        raise UpdateRejected(
            f"safetensors header of {length} bytes in an object of {source.size} bytes"
        )
    header = beginning[8 : 8 + length]
    return header + read(source, 8 + len(header), length - len(header))


@cache_by_weight(weigh=len, small=SMALL_HEADER_BYTES)
def _parse(header: bytes) -> tuple[TensorIndex, int, str]:
    """Return the index that a header describes, how many bytes follow it, and the compression."""
    placed, compression = parse_tensors(header)
    # Of updates compressed by topk, the empty tensors are in the order of the header.
    named = compression != TOPK
    placed.sort(key=lambda each: (each.begin, each.end, each.tensor.name if named else ""))
    end = 0
    for each in placed:
        if each.begin != end:
            gap = each.begin - end
            problem = "overlaps the one before" if gap < 0 else f"leaves {gap} bytes unused"
            raise UpdateRejected(f"safetensors tensor {quoted(each.tensor.name)} {problem}")
        end = each.end
    order = number_order([each.tensor.name for each in placed]) or range(len(placed))
    layout = TensorLayout(tuple(placed[position].tensor for position in order))
    offsets = tuple(placed[position].begin for position in order)
    return shared_index(layout, offsets), end, compression if compression in COMPRESSIONS else ""


class SafetensorsEncoder(ValuesEncoder):
    """A header that depends on the layout alone, followed by the unchanged values.

    Raises
    ------
    AggregationError
        If the format cannot hold the layout, or the header would be too long to be read back.
    """

    def __init__(
        self,
        layout: TensorLayout,
        metadata: Mapping[str, str] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(state)
        if METADATA in layout.by_name:
            raise AggregationError(
                f"a tensor cannot be called {METADATA!r} in safetensors, which has its free text under "
                "this name: rename the tensor, or use npz"
            )
        self._header = encode_header(layout, metadata or {})
        if len(self._header) - 8 > LIBRARY_HEADER_BYTES:
            raise AggregationError(
                f"{len(layout.tensors)} tensors need a safetensors header of {len(self._header) - 8} "
                f"bytes, and no library reads more than {LIBRARY_HEADER_BYTES}"
            )

    def header(self) -> bytes:
        return self._header
