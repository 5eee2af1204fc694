"""Weights as tensors of PyTorch, which must be installed; `Client.upload` takes a ``state_dict``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray


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


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    if (
        array.dtype == ml_dtypes.bfloat16
    ):  # PyTorch reads no bfloat16 of numpy: same bits, other name.
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
