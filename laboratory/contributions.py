"""How long each update is, and what it contributed, also for rules that do not measure updates."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from aggregation.rules import Selection
from laboratory.models import Arrays

Float64s = NDArray[np.float64]


@np.errstate(over="ignore", invalid="ignore")  # A norm may overflow, and is infinite then.
def norms_and_contributions(
    parent: Arrays, updates: Sequence[Arrays], names: Collection[str], selection: Selection
) -> tuple[list[float], list[float | None]]:
    """Return the norm of each update's difference from the parent, and its cosine with the result's.

    The result's difference is the weighted mean of the differences, as in
    `aggregation.rules.Selection.with_cosines`. In contrast to that method, no pairs of updates are
    compared, so that a thousand clients take no longer than their training.

    Parameters
    ----------
    parent, updates
        Arrays by name.
    names : collection of str
        The tensors that are measured.
    selection : Selection
        If it has members that are no updates (the bases of late ones), there are no cosines.

    Returns
    -------
    norms : list of float
    cosines : list of (float or None)
        None if one of the two differences is zero or too long to be squared.
    """
    weights = np.zeros(max(len(updates), max(selection.members) + 1))
    weights[list(selection.members)] = np.asarray(selection.coefficients) / selection.total
    direction = np.zeros(sum(parent[name].size for name in names))
    norms = []
    for weight, difference in zip(weights, _differences(parent, updates, names), strict=False):
        norms.append(float(np.sqrt(_product(difference, difference))))
        direction += weight * difference
    length = float(np.sqrt(_product(direction, direction)))
    if len(weights) > len(updates) or not 0 < length < np.inf:
        return norms, [None] * len(updates)
    cosines = [
        _cosine(_product(difference, direction), norm * length)
        for norm, difference in zip(norms, _differences(parent, updates, names), strict=True)
    ]
    return norms, cosines


def _differences(
    parent: Arrays, updates: Sequence[Arrays], names: Collection[str]
) -> Iterator[Float64s]:
    """Yield each update's difference from the parent, flat and in float64."""
    for update in updates:
        parts = [
            update[name].astype(np.float64) - parent[name].astype(np.float64) for name in names
        ]
        yield np.concatenate([np.zeros(0), *(part.reshape(-1) for part in parts)])


def _product(a: Float64s, b: Float64s) -> float:
    """Return the inner product; BLAS would start threads for it, which compete with those of training."""
    return float(np.einsum("i,i->", a, b))


def _cosine(product: float, lengths: float) -> float | None:
    if not 0 < lengths < np.inf:
        return None
    return round(float(np.clip(product / lengths, -1.0, 1.0)), 6)
