"""Weights as arrays and as files."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ._core.errors import AggregationError, quoted
from ._core.formats import Spool, encoder_for, format_of, open_weights, peek_layout
from ._core.in_memory import weights_in_memory
from ._core.layout import TensorLayout
from ._core.sources import BytesSource
from ._core.weights import Weights as OpenedWeights
from ._core.weights import read_tensors
from .errors import BadDownload, BadWeights
from .sources import FileBytes

#: A model's tensors by name: arrays, or tensors of PyTorch, JAX and others that numpy can read.
Weights = Mapping[str, Any]

Arrays = dict[str, NDArray[Any]]

#: The format of an update.
FORMAT = "safetensors"


def as_arrays(weights: Weights) -> Arrays:
    """Return the tensors as numpy arrays, without a copy where that is possible.

    Raises
    ------
    BadWeights
        If it is not a mapping of names to tensors.
    """
    if not isinstance(weights, Mapping):
        raise BadWeights(f"expected a mapping of tensor names to arrays, {_what_it_is(weights)}")
    for name in weights:
        if not isinstance(name, str) or not is_unicode(name):
            raise BadWeights(f"the tensor names must be strings of Unicode, one is {name!r}")
    return {name: _as_array(name, tensor) for name, tensor in weights.items()}


def is_unicode(name: str) -> bool:
    """Return whether a string can be encoded as UTF-8: it has no half of a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _what_it_is(value: Any) -> str:
    kind = type(value).__name__
    if hasattr(value, "state_dict"):
        return f"got the module {kind} itself: pass its state_dict()"
    if isinstance(value, Iterator):
        return (
            f"got a {kind}: pass state_dict() instead of named_parameters(), which also leaves out the "
            "buffers, such as those of BatchNorm"
        )
    if isinstance(value, Sequence):
        return f"got a {kind}: pass a dict such as {{'layer.weight': array}}"
    return f"got a {kind}"


def _as_array(name: str, tensor: Any) -> NDArray[Any]:
    if isinstance(tensor, Mapping):
        raise BadWeights(
            f"tensor {quoted(name)} is a mapping: flatten nested parameters to one level of names"
        )
    if tensor is None or isinstance(tensor, str | bytes):
        raise BadWeights(f"tensor {quoted(name)} is {tensor!r}, expected an array")
    if isinstance(tensor, np.ma.MaskedArray):
        raise BadWeights(f"tensor {quoted(name)} is a masked array: fill it first, with filled()")
    try:
        array = np.asarray(_on_the_host(tensor))
    except Exception as error:  # Each framework raises errors of its own.
        raise BadWeights(
            f"tensor {quoted(name)} of type {type(tensor).__name__} cannot be converted to a numpy "
            f"array: {error}"
        ) from error
    # Numbers of Python have no dtype: a list of whole ones is not meant to be averaged to whole ones.
    return array if hasattr(tensor, "dtype") or array.dtype.kind != "i" else array.astype(float)


def _on_the_host(tensor: Any) -> Any:
    """Return a tensor of PyTorch as an array; other values as they are."""
    if not (hasattr(tensor, "detach") and hasattr(tensor, "cpu")):
        return tensor
    tensor = tensor.detach().cpu()
    if (
        str(tensor.dtype) == "torch.bfloat16"
    ):  # numpy() knows no bfloat16; float32 holds all its values.
        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy()


def encode(weights: Weights, format: str = FORMAT) -> io.BytesIO:
    """Return weights as a file in memory, positioned at its beginning.

    Parameters
    ----------
    weights : mapping of str to array
    format : {'safetensors', 'npz', 'json'}
        JSON has no names: the layers are written in the order of the mapping, and come back as ``arr_0``,
        ``arr_1`` and so on.

    Raises
    ------
    BadWeights
        If a tensor is not an array, or the format cannot contain it: its dtype, name or values.
    """
    try:
        opened = weights_in_memory(as_arrays(weights))
        return _written(opened, format)
    except AggregationError as error:
        raise BadWeights(str(error)) from error


def _written(opened: OpenedWeights, format: str) -> io.BytesIO:
    file = io.BytesIO()
    write_tensors(file, format, [(opened, tensor.name) for tensor in opened.layout.tensors])
    file.seek(0)
    return file


def write_tensors(
    file: IO[bytes], format: str, chosen: Sequence[tuple[OpenedWeights, str]]
) -> None:
    """Write tensors of weights that are open to a file, one at a time.

    Parameters
    ----------
    file : binary file
    format : str
    chosen : sequence of (weights, name)
    """
    layout = TensorLayout(tuple(weights.layout.by_name[name] for weights, name in chosen))
    encoder = encoder_for(format, layout)
    file.write(encoder.header())
    start = 0
    for (weights, name), tensor in zip(chosen, layout.tensors, strict=True):
        values = np.empty(tensor.nbytes, np.uint8).data
        if values:
            weights.source.read_into(weights.base + weights.offset_of(name), values)
            file.writelines(encoder.encode(start, values))
        start += tensor.nbytes
    file.write(encoder.footer())


@contextmanager
def opened(
    file: BinaryIO, name: str, expected_layout: TensorLayout | None = None
) -> Iterator[OpenedWeights]:
    """Open the weights in a file of this machine, of which the extension of the name is the format."""
    with Spool() as spool:
        yield open_weights(
            FileBytes(file),
            format_of(name),
            expected_layout=expected_layout,
            spool=spool,
            trusted=True,
        )


@contextmanager
def result_file() -> Iterator[BinaryIO]:
    """Create a temporary file, which the caller closes, unless the block fails.

    Raises
    ------
    BadWeights
        For an error of the weights in the block.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it.
    try:
        yield file
    except AggregationError as error:
        file.close()
        raise BadWeights(str(error)) from error
    except BaseException:
        file.close()
        raise


def decode(body: bytes, key: str) -> Arrays:
    """Return the tensors in the bytes of an object, by name; those of a JSON list as ``arr_0`` and so on.

    Parameters
    ----------
    body : bytes
    key : str
        The object's name, whose extension is the format.

    Raises
    ------
    BadDownload
        If the bytes are not weights in that format.
    """
    arrays, _ = decode_with_layout(body, key)
    return arrays


def decode_with_layout(body: bytes, key: str) -> tuple[Arrays, TensorLayout]:
    """Return the tensors in the bytes of an object, and their layout."""
    try:
        with Spool() as spool:
            opened = open_weights(BytesSource(body), format_of(key), spool=spool, trusted=True)
            return read_tensors(opened), opened.layout
    except AggregationError as error:
        raise BadDownload(f"{key} cannot be read: {error}") from error


def layout_of_file(path: Path) -> TensorLayout:
    """Return the layout of a file that was downloaded, of which only the headers are read.

    Raises
    ------
    BadDownload
    """
    try:
        with path.open("rb") as file:
            return peek_layout(FileBytes(file), format_of(path.name), trusted=True)
    except AggregationError as error:
        raise BadDownload(f"{path.name} cannot be read: {error}") from error
