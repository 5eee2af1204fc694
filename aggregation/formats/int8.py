"""int8: differences rounded to 8 bits, with one scale for each block of a tensor.

The update is a safetensors object whose metadata say ``compression: int8``. A tensor of floating-point
numbers is an I8 tensor of the same name and shape; tensors of integers are stored as they are. A block is
`BLOCK` elements of one flattened tensor, the last one of a tensor has fewer. The F32 tensor `SCALES` has
one number for each block, in the order of the tensors' bytes in the object. An element is the product of
its 8-bit number and the scale of its block, computed in float32 and converted to the model's dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UpdateRejected
from ..layout import Tensor, TensorLayout, is_integral

#: The name of the compression in the metadata.
INT8 = "int8"

#: Elements of a block.
BLOCK = 4096

#: The tensor that contains the scales. A model that has a tensor of this name takes no compressed updates.
SCALES = "__scales__"

#: The largest absolute value of an 8-bit number that a client writes.
LARGEST = 127

INT8_DTYPE, SCALE_DTYPE = np.dtype("i1"), np.dtype("<f4")

#: Elements that are converted at once: the temporary arrays stay in the processor's cache.
PIECE = 16 * BLOCK


def is_quantized(dtype: np.dtype[Any]) -> bool:
    """Return whether tensors of this dtype are rounded; those of integers and booleans are not."""
    return not is_integral(dtype)


def count_blocks(size: int) -> int:
    """Return the number of blocks of a tensor with so many elements."""
    return -(-size // BLOCK)


def quantize(values: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a flat tensor to 8 bits: ``scale = max |x| / 127`` and ``q = rint(x / scale)`` in each block.

    Parameters
    ----------
    values : (n,) floating-point
        Finite, and at most 127 times the largest float32.

    Returns
    -------
    numbers : (n,) int8
    scales : (count_blocks(n),) float32
    """
    numbers = np.empty(values.size, np.int8)
    scales = np.empty(count_blocks(values.size), np.float32)
    for start in range(0, values.size, PIECE):
        piece = values[start : start + PIECE].astype(np.float64)
        starts = np.arange(0, piece.size, BLOCK)
        found = (np.maximum.reduceat(np.abs(piece), starts) / LARGEST).astype(np.float32)
        each = np.repeat(found.astype(np.float64), BLOCK)[: piece.size]
        # The scale of a block of zeros, or of denormal numbers, is zero.
        ratios = np.divide(piece, each, out=np.zeros_like(piece), where=each > 0)
        numbers[start : start + PIECE] = np.clip(np.rint(ratios), -LARGEST, LARGEST)
        scales[start // BLOCK :][: found.size] = found
    return numbers, scales


def dequantize(
    numbers: NDArray[np.int8], scales: NDArray[np.float32], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the elements of a flat tensor as the aggregator reads them."""
    values = np.empty(numbers.size, dtype)
    with np.errstate(over="ignore"):  # The check of the values reports infinity.
        for start in range(0, numbers.size, PIECE):
            piece = numbers[start : start + PIECE]
            each = np.repeat(scales[start // BLOCK :][: count_blocks(piece.size)], BLOCK)
            values[start : start + PIECE] = piece * each[: piece.size]
    return values


def stored_layout_of(tensors: Sequence[Tensor]) -> TensorLayout:
    """Return the layout of an object that contains these tensors of a model: the scales come last.

    Raises
    ------
    UpdateRejected
        If a tensor has the name of the scales.
    """
    check_names(tensor.name for tensor in tensors)
    stored = tuple(stored_tensor(tensor) for tensor in tensors)
    blocks = sum(count_blocks(t.size) for t in tensors if is_quantized(t.dtype))
    return TensorLayout((*stored, Tensor(SCALES, SCALE_DTYPE, (blocks,))))


def stored_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor of a model as it is stored."""
    return replace(tensor, dtype=INT8_DTYPE) if is_quantized(tensor.dtype) else tensor


def scales_of(tensor: Tensor) -> Tensor:
    """Return the scales of a tensor, under its name."""
    blocks = count_blocks(tensor.size) if is_quantized(tensor.dtype) else 0
    return Tensor(tensor.name, SCALE_DTYPE, (blocks,))


def check_names(names: Iterable[str]) -> None:
    """Raise `UpdateRejected` if a tensor of the model has the name of the scales."""
    if SCALES in names:
        raise UpdateRejected(
            f"the model has a tensor called {SCALES!r}, which contains the scales of compressed updates: "
            "send the update uncompressed"
        )
