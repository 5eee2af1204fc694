"""topk: of each tensor of differences the elements of the largest absolute values, the others being zero.

The update is a safetensors object whose metadata say ``compression: topk``. A tensor of floating-point
numbers is an empty tensor of the model's dtype, whose shape is a zero followed by the model's; tensors of
integers are stored as they are. The elements that are not zero are the rows of the U8 tensor `ENTRIES`, six
bytes each: the index within the block as U16, and the value as F32, both little-endian. Blocks are those of
int8. In each block, the indices increase.

The U64 tensor `OFFSETS` says which rows belong to a block. For each tensor of floating-point numbers, in
the order of the header, it has one number for each block, the first row of the block, and one more, the end
of the last block's rows. The header lists tensors in the order of their data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UpdateRejected
from ..layout import Tensor, TensorLayout
from .int8 import BLOCK, count_blocks, is_quantized

#: The name of the compression in the metadata.
TOPK = "topk"

#: The tensors that contain the elements. A model that has a tensor of such a name takes no updates
#: compressed by topk.
OFFSETS, ENTRIES = "__offsets__", "__entries__"

ENTRY = np.dtype([("index", "<u2"), ("value", "<f4")])

OFFSET_DTYPE, BYTE = np.dtype("<u8"), np.dtype("u1")


def largest(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Return the indices of the elements of the largest absolute values of a flat tensor, sorted."""
    first = values.size - count
    return (
        np.sort(np.argpartition(np.abs(values), first)[first:]) if count else np.empty(0, np.intp)
    )


def entries_of(indices: NDArray[np.intp], values: NDArray[Any]) -> NDArray[Any]:
    """Return the rows for the elements of a flat tensor at these indices."""
    entries = np.empty(indices.size, ENTRY)
    entries["index"] = indices % BLOCK
    entries["value"] = values[indices]
    return entries


def offsets_of(indices: NDArray[np.intp], size: int, first: int) -> NDArray[np.uint64]:
    """Return the offsets of a tensor of ``size`` elements whose rows begin at row ``first``."""
    edges = np.arange(count_blocks(size) + 1) * BLOCK
    return (first + np.searchsorted(indices, edges)).astype(np.uint64)


def stored_layout_of(tensors: Sequence[Tensor], rows: int) -> TensorLayout:
    """Return the layout of an object that contains these tensors of a model, in ``rows`` rows.

    Raises
    ------
    UpdateRejected
        If a tensor has one of the names that the format needs.
    """
    check_names(tensor.name for tensor in tensors)
    offsets = sum(offsets_tensor(tensor).size for tensor in tensors)
    return TensorLayout(
        (
            *(stored_tensor(tensor) for tensor in tensors),
            Tensor(OFFSETS, OFFSET_DTYPE, (offsets,)),
            Tensor(ENTRIES, BYTE, (rows, ENTRY.itemsize)),
        )
    )


def stored_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor of a model as it is stored."""
    return replace(tensor, shape=(0, *tensor.shape)) if is_quantized(tensor.dtype) else tensor


def offsets_tensor(tensor: Tensor) -> Tensor:
    """Return the offsets of a tensor, under its name."""
    count = count_blocks(tensor.size) + 1 if is_quantized(tensor.dtype) else 0
    return Tensor(tensor.name, OFFSET_DTYPE, (count,))


def check_names(names: Iterable[str]) -> None:
    """Raise `UpdateRejected` if a tensor of the model has a name that the format needs."""
    taken = {OFFSETS, ENTRIES} & set(names)
    if taken:
        raise UpdateRejected(
            f"the model has a tensor called {min(taken)!r}, which contains the elements of updates "
            "compressed by topk: send the update uncompressed"
        )
