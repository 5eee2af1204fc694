"""Updates compressed by plain numpy, as the tests of int8 use them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aggregation.formats.int8 import BLOCK, SCALES, is_quantized
from aggregation.formats.topk import ENTRIES, ENTRY, OFFSETS
from aggregation.layout import DTYPE_NAMES
from tests.aggregation.formats.samples import Array


def plain_quantize(values: Array) -> tuple[Array, Array]:
    """Return the 8-bit numbers and the scales of a tensor, block by block."""
    flat = np.asarray(values, np.float64).reshape(-1)
    blocks = [flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK)]
    scales = np.array([np.float32(np.abs(block).max() / 127) for block in blocks], np.float32)
    numbers = [
        np.clip(np.rint(block / np.float64(scale)), -127, 127) if scale else np.zeros(block.size)
        for block, scale in zip(blocks, scales, strict=True)
    ]
    return np.concatenate([*numbers, []]).astype(np.int8).reshape(np.shape(values)), scales


def plain_dequantize(numbers: Array, scales: Array, dtype: np.dtype[Any]) -> Array:
    """Return the elements for numbers and scales."""
    flat = numbers.reshape(-1).astype(np.float32)
    return (flat * scales[np.arange(flat.size) // BLOCK]).astype(dtype).reshape(numbers.shape)


def compressed(arrays: Mapping[str, Array], order: Iterable[str] | None = None) -> bytes:
    """Return an update compressed by plain numpy, with the tensors' bytes in an order."""
    stored: dict[str, Array] = {}
    scales = []
    for name in order or arrays:
        array = arrays[name]
        stored[name] = array
        if is_quantized(array.dtype):
            stored[name], found = plain_quantize(array)
            scales.append(found)
    stored[SCALES] = np.concatenate([np.empty(0, np.float32), *scales])
    return written(stored)


def written(stored: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors object with the tensors' bytes in the order of the mapping."""
    entries: dict[str, Any] = {"__metadata__": metadata or {"compression": "int8"}}
    data = b""
    for name, array in stored.items():
        ends = [len(data), len(data) + array.nbytes]
        entries[name] = {
            "dtype": DTYPE_NAMES[array.dtype],
            "shape": array.shape,
            "data_offsets": ends,
        }
        data += array.tobytes()
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def decompressed(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors of an update as they are after compression."""
    return {
        name: plain_dequantize(*plain_quantize(array), array.dtype)
        if is_quantized(array.dtype)
        else array
        for name, array in arrays.items()
    }


def sparse(arrays: Mapping[str, Array], share: float) -> dict[str, Array]:
    """Return the tensors with zeros for all but the share of the largest elements, rounded up."""
    kept = {}
    for name, array in arrays.items():
        flat = array.reshape(-1).copy()
        if is_quantized(array.dtype):
            # float32 is what an update contains.
            flat = flat.astype(np.float32).astype(array.dtype)
            order = np.argsort(np.abs(flat.astype(np.float64)), kind="stable")
            flat[order[: flat.size - int(np.ceil(share * flat.size))]] = 0
        kept[name] = flat.reshape(array.shape)
    return kept


def sparse_update(arrays: Mapping[str, Array], order: Iterable[str] | None = None) -> bytes:
    """Return an update compressed by topk that contains the elements that are not zero."""
    stored: dict[str, Array] = {}
    offsets: list[int] = []
    rows: list[tuple[int, float]] = []
    for name in order or arrays:
        array = arrays[name]
        stored[name] = array
        if is_quantized(array.dtype):
            stored[name] = np.empty((0, *array.shape), array.dtype)
            flat = array.reshape(-1).astype(np.float32)
            for start in range(0, flat.size, BLOCK):
                offsets.append(len(rows))
                block = flat[start : start + BLOCK]
                rows += [(int(index), float(block[index])) for index in np.flatnonzero(block)]
            offsets.append(len(rows))
    stored[OFFSETS] = np.array(offsets, np.uint64)
    stored[ENTRIES] = np.array(rows, ENTRY).view(np.uint8).reshape(-1, ENTRY.itemsize)
    return written(stored, {"compression": "topk"})
