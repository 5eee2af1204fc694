"""Compressed updates, and what they leave out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from . import limits
from ._core.errors import quoted
from ._core.formats import int8, topk
from ._core.formats.int8 import INT8
from ._core.formats.safetensors_header import COMPRESSION, encode_header
from ._core.layout import Tensor, TensorLayout
from ._core.weights import Weights
from .errors import BadWeights
from .weights import Arrays, opened, result_file

Floats = NDArray[np.floating[Any]]


def compressed_file(
    compression: str,
    differences: BinaryIO,
    name: str,
    expected_layout: TensorLayout | None,
    residual: Arrays,
) -> tuple[BinaryIO, Arrays]:
    """Return a temporary file with compressed differences, and what the compression left out.

    What earlier compression left out is added before (error feedback: Seide et al., *1-Bit Stochastic
    Gradient Descent*, Interspeech 2014), so that it is sent later rather than lost. One tensor at a time is
    in memory, beside the residual.

    Parameters
    ----------
    compression : {'int8', 'topk'}
    differences : binary file
    name : str
        Its extension is the format of the differences.
    expected_layout : TensorLayout or None
        The model's.
    residual : dict of str to array
        What was left out so far, by tensor.

    Raises
    ------
    BadWeights
        If the model cannot have compressed updates, or the residual does not fit it.
    """
    write = _write_int8 if compression == INT8 else _write_topk
    with result_file() as result, opened(differences, name, expected_layout) as weights:
        return result, write(result, weights, residual)


def _write_int8(file: BinaryIO, weights: Weights, residual: Arrays) -> Arrays:
    """Write differences rounded to 8 bits, and return what the rounding left out."""
    layout = int8.stored_layout_of(weights.layout.tensors)
    file.write(encode_header(layout, {COMPRESSION: INT8}))
    left, all_scales = {}, [np.empty(0, np.float32)]
    for tensor, values in _tensors(weights):
        if not int8.is_quantized(tensor.dtype):
            file.write(values.view(np.uint8).data)
            continue
        total = _total(tensor, values, residual)
        numbers, scales = int8.quantize(total)
        file.write(numbers.data)
        all_scales.append(scales)
        left[tensor.name] = _left_out(tensor, total, int8.dequantize(numbers, scales, tensor.dtype))
    file.write(np.concatenate(all_scales).view(np.uint8).data)
    return left


def _write_topk(file: BinaryIO, weights: Weights, residual: Arrays) -> Arrays:
    """Write the largest elements of each tensor, and return what was left out."""
    tensors = weights.layout.tensors
    layout = topk.stored_layout_of(tensors, sum(map(_count_sent, tensors)))
    file.write(encode_header(layout, {COMPRESSION: topk.TOPK}))
    left, rows, first = {}, [np.empty(0, topk.ENTRY)], 0
    offsets = [np.empty(0, np.uint64)]
    for tensor, values in _tensors(weights):
        if not int8.is_quantized(tensor.dtype):
            file.write(values.view(np.uint8).data)
            continue
        total = _total(tensor, values, residual)
        chosen = topk.largest(total, _count_sent(tensor))
        with np.errstate(over="ignore"):  # The check of the result reports infinity.
            rows.append(topk.entries_of(chosen, total))
            sent = np.zeros(tensor.size, tensor.dtype)
            sent[chosen] = rows[-1]["value"]
        offsets.append(topk.offsets_of(chosen, tensor.size, first))
        first += chosen.size
        left[tensor.name] = _left_out(tensor, total, sent)
    file.write(np.concatenate(offsets).view(np.uint8).data)
    file.write(np.concatenate(rows).view(np.uint8).data)
    return left


def _count_sent(tensor: Tensor) -> int:
    """Return how many elements of a tensor topk sends."""
    is_compressed = int8.is_quantized(tensor.dtype)
    return math.ceil(tensor.size * limits.TOPK_SHARE) if is_compressed else 0


def _tensors(weights: Weights) -> Iterator[tuple[Tensor, NDArray[Any]]]:
    """Yield the tensors with their elements, flat, one at a time."""
    start = 0
    for tensor in weights.layout.tensors:
        values = np.empty(tensor.size, tensor.dtype)
        if tensor.nbytes:
            weights.read_into(weights.layout, start, values.view(np.uint8).data)
        start += tensor.nbytes
        yield tensor, values


def _total(tensor: Tensor, values: NDArray[np.generic], residual: Arrays) -> Floats:
    """Return a tensor with what was left out of it so far, flat, in float32 or float64."""
    # float32 contains all values of float16 and bfloat16.
    total: Floats = values.astype(np.float64 if tensor.dtype == np.float64 else np.float32)
    before = residual.get(tensor.name)
    if before is None:
        return total
    if before.shape != tensor.shape:
        raise BadWeights(
            f"the residual of tensor {quoted(tensor.name)} has shape {list(before.shape)}, the model's "
            f"is {list(tensor.shape)}: is it that of another model? Set residual to {{}}"
        )
    return total + before.reshape(-1)


def _left_out(tensor: Tensor, total: Floats, received: NDArray[np.generic]) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):  # The check of the result reports infinity.
        return (total - received.astype(total.dtype)).reshape(tensor.shape)
