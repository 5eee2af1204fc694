"""Frozen tensors: those that an update must leave as they were fetched."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._core.errors import quoted
from .errors import BadWeights
from .pointer import Latest
from .weights import Arrays


class FrozenTensors:
    """The digests of the frozen tensors that were fetched; the caller may train in their arrays.

    Parameters
    ----------
    base : Latest, optional
        What was fetched.
    weights : dict of str to array
        Its tensors.
    """

    def __init__(self, base: Latest | None = None, weights: Arrays | None = None) -> None:
        fetched = (weights or {}).items() if base else ()
        self._digests = {n: _digest(t) for n, t in fetched if base and base.is_frozen(n)}

    def check(self, weights: Arrays, *, are_differences: bool) -> None:
        """Refuse an update that the round would reject, after the other clients have waited for it.

        Raises
        ------
        BadWeights
        """
        for name, expected in self._digests.items():
            tensor = weights.get(name)
            if tensor is None:
                continue
            if np.any(tensor) if are_differences else _digest(tensor) != expected:
                raise BadWeights(
                    f"tensor {quoted(name)} is frozen until the next aggregate, and the update changes it: "
                    "train the others only (`latest.is_frozen` says which)"
                )


def _digest(tensor: NDArray[Any]) -> bytes:
    return sha256(np.ascontiguousarray(tensor).tobytes()).digest()
