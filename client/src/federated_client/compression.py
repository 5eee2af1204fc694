"""Compressed updates, and what they leave out."""

from __future__ import annotations

import tempfile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ._core.errors import AggregationError, quoted
from ._core.formats import Spool, format_of, open_weights
from ._core.formats.int8 import INT8, dequantize, is_quantized, quantize, stored_layout_of
from ._core.formats.safetensors_header import COMPRESSION, encode_header
from ._core.layout import Tensor, TensorLayout
from ._core.weights import Weights
from .errors import BadWeights
from .sources import FileBytes
from .weights import Arrays

Floats = NDArray[np.floating[Any]]


def int8_file(
    differences: BinaryIO, name: str, expected_layout: TensorLayout | None, residual: Arrays
) -> tuple[BinaryIO, Arrays]:
    """Return a temporary file with the differences rounded to 8 bits, and what the rounding left out.

    What earlier rounding left out is added before (error feedback: Seide et al., *1-Bit Stochastic Gradient
    Descent*, Interspeech 2014), so that it is sent later rather than lost. One tensor at a time is in
    memory, beside the residual.

    Parameters
    ----------
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
    result = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it.
    try:
        with Spool() as spool:
            weights = open_weights(
                FileBytes(differences),
                format_of(name),
                expected_layout=expected_layout,
                spool=spool,
                trusted=True,
            )
            return result, _write(result, weights, residual)
    except AggregationError as error:
        result.close()
        raise BadWeights(str(error)) from error
    except BadWeights:
        result.close()
        raise


def _write(file: BinaryIO, weights: Weights, residual: Arrays) -> Arrays:
    layout = weights.layout
    file.write(encode_header(stored_layout_of(layout.tensors), {COMPRESSION: INT8}))
    left, all_scales, start = {}, [np.empty(0, np.float32)], 0
    for tensor in layout.tensors:
        values = np.empty(tensor.size, tensor.dtype)
        if tensor.nbytes:
            weights.read_into(layout, start, values.view(np.uint8).data)
        start += tensor.nbytes
        if not is_quantized(tensor.dtype):
            file.write(values.view(np.uint8).data)
            continue
        total = _total(tensor, values, residual)
        numbers, scales = quantize(total)
        file.write(numbers.data)
        all_scales.append(scales)
        left[tensor.name] = _left_out(tensor, total, dequantize(numbers, scales, tensor.dtype))
    file.write(np.concatenate(all_scales).view(np.uint8).data)
    return left


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
