"""Weights as files, and what is wrong with them before the function would say so."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import BadWeights

Weights = Mapping[str, NDArray[Any]]

try:
    import safetensors.numpy as _safetensors
except ImportError:  # npz needs nothing but numpy.
    _safetensors = None  # type: ignore[assignment]

#: What updates are written as.
FORMAT = "safetensors" if _safetensors else "npz"


def encode(weights: Weights, format: str = FORMAT) -> BinaryIO:
    """Weights as a file in memory."""
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in weights.items()}
    if format == "safetensors":
        return io.BytesIO(_safetensors.save(arrays))
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


def decode(body: bytes, key: str) -> dict[str, NDArray[Any]]:
    """Weights from the bytes of an object, whose name tells the format.

    Raises
    ------
    BadWeights
    """
    extension = key.rsplit(".", 1)[-1]
    try:
        if extension == "safetensors" and _safetensors:
            return dict(_safetensors.load(body))
        if extension == "npz":
            with np.load(io.BytesIO(body), allow_pickle=False) as file:
                return dict(file)
    except Exception as error:
        raise BadWeights(f"{key} cannot be read: {error}") from error
    if extension == "safetensors":
        raise BadWeights(f"{key} is a safetensors file: pip install safetensors")
    raise BadWeights(f"{key} is {extension}: download it with fetch_file and read it yourself")


def check(weights: Weights, like: Weights | None) -> None:
    """Refuse weights that the function would reject.

    Raises
    ------
    BadWeights
    """
    if not weights:
        raise BadWeights("there is no tensor to send")
    for name, tensor in weights.items():
        if tensor.dtype.kind == "O":
            raise BadWeights(f"{name!r} is no tensor of numbers")
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BadWeights(f"{name!r} has nan or infinity in it: did the training diverge?")
    if like is not None:
        _check_layout(weights, like)


def _check_layout(weights: Weights, like: Weights) -> None:
    missing, extra = like.keys() - weights.keys(), weights.keys() - like.keys()
    if missing or extra:
        raise BadWeights(
            f"the model's tensors are {sorted(like)}: missing {sorted(missing)}, unknown {sorted(extra)}"
        )
    for name, model in like.items():
        found = weights[name]
        if (found.shape, found.dtype) != (model.shape, model.dtype):
            raise BadWeights(
                f"{name!r} is {found.dtype} {found.shape}, the model's is {model.dtype} {model.shape}"
            )
