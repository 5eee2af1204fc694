"""The difference between trained weights and the weights they were trained from."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ._core.errors import UpdateRejected, quoted
from ._core.formats import encoder_for, format_of
from ._core.layout import Tensor, TensorLayout, is_integral
from ._core.policies import TensorPolicies
from ._core.weights import Weights
from .weights import opened, result_file


def difference_file(trained: BinaryIO, name: str, base: Path, policies: TensorPolicies) -> BinaryIO:
    """Return a temporary file with what training added to the base, one tensor at a time.

    Parameters
    ----------
    trained : binary file
        The weights after training.
    name : str
        Its extension is their format, and that of the result.
    base : Path
        The weights before training; its suffix is their format.
    policies : TensorPolicies
        Tensors that clients do not send may be missing in the trained weights.

    Raises
    ------
    BadWeights
        If the two have different layouts, or a difference cannot be represented in the tensor's dtype.
    """
    with (
        result_file() as result,
        base.open("rb") as before,
        opened(before, base.name) as start,
        opened(trained, name, policies.expected_layout(start.layout)) as end,
    ):
        _write(result, format_of(name), end, start)
    return result


def _write(file: BinaryIO, format: str, end: Weights, start: Weights) -> None:
    sent = [tensor for tensor in start.layout.tensors if tensor.name in end.layout.by_name]
    encoder = encoder_for(format, TensorLayout(tuple(sent)))
    file.write(encoder.header())
    position = 0
    for tensor in sent:
        if tensor.nbytes:
            values = _difference(tensor, _read(end, tensor), _read(start, tensor))
            file.writelines(encoder.encode(position, values.view(np.uint8).data))
        position += tensor.nbytes
    file.write(encoder.footer())


def _read(weights: Weights, tensor: Tensor) -> NDArray[np.generic]:
    values = np.empty(tensor.size, tensor.dtype)
    offset = weights.base + weights.offset_of(tensor.name)
    weights.source.read_into(offset, values.view(np.uint8).data)
    return values


def _difference(
    tensor: Tensor, end: NDArray[np.generic], start: NDArray[np.generic]
) -> NDArray[np.generic]:
    """Subtract in float64, or exactly where the tensor has integers; of booleans, say which changed."""
    if tensor.dtype == np.bool_:
        return np.asarray(end != start)
    if not is_integral(tensor.dtype):
        with np.errstate(over="ignore", invalid="ignore"):  # The check of the result reports them.
            return (end.astype(np.float64) - start.astype(np.float64)).astype(tensor.dtype)
    limits = np.iinfo(tensor.dtype)
    exact = end.astype(object) - start.astype(object)
    if exact.min() < limits.min or exact.max() > limits.max:
        raise UpdateRejected(
            f"the difference of tensor {quoted(tensor.name)} does not fit into {tensor.dtype}: a model "
            "of differences cannot have it"
        )
    return np.asarray(exact.astype(tensor.dtype))
