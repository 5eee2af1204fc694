"""The geometric median."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregation.arguments import number, whole_number
from aggregation.rules.base import Float64s, LinearRule, Selection, Statistics, register

#: Weiszfeld's iteration has arrived when no weight moves by more than this share.
TOLERANCE = 1e-12


@register
@dataclass(frozen=True)
class GeometricMedian(LinearRule):
    """The point with the smallest sum of distances from the updates, each counting the same.

    Found by the smoothed Weiszfeld iteration, ``v <- sum_k b_k w_k / sum_k b_k`` with
    ``b_k = 1 / max(smoothing, |v - w_k|)``: Pillutla et al., *Robust Aggregation for Federated
    Learning*, IEEE Transactions on Signal Processing 2022, algorithm 2. Every iterate is a mixture of
    the updates, so that the iteration runs on their inner products, without another look at them.

    Parameters
    ----------
    smoothing : float
        Distances below it count as it; positive.
    iterations : int
        At most.
    """

    smoothing: float = 1e-6
    iterations: int = 1000
    name = "geometric_median"
    needs_gram = True

    def __post_init__(self) -> None:
        number("smoothing", self.smoothing, above=0)
        whole_number("iterations", self.iterations, at_least=1)

    def select(self, statistics: Statistics) -> Selection:
        gram = statistics.inner_products
        weights = np.full(len(gram), 1.0 / len(gram))
        for _ in range(self.iterations):
            closeness = 1.0 / np.maximum(self.smoothing, distances_from_mixture(gram, weights))
            moved = closeness / closeness.sum()
            arrived = np.abs(moved - weights).max() <= TOLERANCE
            weights = moved
            if arrived:
                break
        return Selection.weighted(weights)


def distances_from_mixture(gram: Float64s, weights: Float64s) -> Float64s:
    """Distance of each update from ``sum_k weights[k] * update[k]``, all taken from one centre.

    ``|d_i - v|^2 = <d_i, d_i> - 2 <d_i, v> + <v, v>``.

    Parameters
    ----------
    gram : (n, n) float64
        Inner products of the updates' differences from the centre.
    weights : (n,) float64

    Returns
    -------
    (n,) float64
    """
    with_mixture = gram @ weights
    squares = np.diagonal(gram) - 2.0 * with_mixture + weights @ with_mixture
    return np.asarray(np.sqrt(squares.clip(min=0.0)), np.float64)
