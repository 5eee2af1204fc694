"""Weights of modules and state_dicts of PyTorch, which must be installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from .weights import Arrays


def tensors(weights: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return arrays as tensors that share their memory.

    Parameters
    ----------
    weights : mapping of str to array
        As `Client.fetch` returns them.

    Returns
    -------
    dict of str to torch.Tensor
        For ``load_state_dict``.
    """
    return {name: _tensor(array) for name, array in weights.items()}


def arrays_of(model: Any) -> Mapping[str, Any]:
    """Return the state_dict of a module, or a state_dict as it is."""
    return model if isinstance(model, Mapping) else dict(model.state_dict())


def load_into(model: Any, weights: Arrays) -> Any:
    """Load weights into a module and return it, or return a state_dict of tensors."""
    if isinstance(model, Mapping):
        return tensors(weights)
    model.load_state_dict(tensors(weights))
    return model


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    if (
        array.dtype == ml_dtypes.bfloat16
    ):  # PyTorch reads no bfloat16 of numpy: same bits, other name.
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
