"""The geometric median."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregation.arguments import number, whole_number
from aggregation.rules.base import Float64s, LinearRule, Selection, Statistics, register
from aggregation.rules.sums import inner_product

#: The iteration stops when the iterate moves by less than this share of the updates' median distance
#: from the centre. The weights are no measure of it: 1e-12 of the weight of an update of 1e38 is 1e26.
TOLERANCE = 1e-12


@register
@dataclass(frozen=True)
class GeometricMedian(LinearRule):
    """The point with the smallest sum of distances from the updates, each with the same weight.

    Computed by the smoothed Weiszfeld iteration, ``v <- sum_k b_k w_k / sum_k b_k`` with
    ``b_k = 1 / max(smoothing, |v - w_k|)``: Pillutla et al., *Robust Aggregation for Federated
    Learning*, IEEE Transactions on Signal Processing 2022, algorithm 2. It starts at the parent, or at
    the coordinate-wise median if the updates are far from the parent. Every iterate is a mixture of the
    updates, so that the iteration needs only their inner products.

    Withstands fewer than half of the updates: if the honest ones are within a distance *r* of a point,
    the result is within ``2 r (n - f) / (n - 2 f)`` of it with *f* hostile ones (Minsker, *Geometric
    median and robust estimation in Banach spaces*, Bernoulli 2015, lemma 2.1; *r* is at least
    ``smoothing``).

    Parameters
    ----------
    smoothing : float
        Smaller distances count as this one.
    iterations : int
        The largest number of iterations.
    f : int
        Hostile updates that must be withstood: a round needs ``2 f + 1`` updates.
    """

    smoothing: float = 1e-6
    iterations: int = 1000
    f: int = 0
    name = "geometric_median"
    needs_gram = True

    def __post_init__(self) -> None:
        number("smoothing", self.smoothing, above=0)
        whole_number("iterations", self.iterations, at_least=1)
        whole_number("f", self.f, at_least=0)

    @property
    def min_updates(self) -> int:
        return 2 * self.f + 1

    def max_hostile(self, n: int) -> int:
        return max(0, n - 1) // 2

    def select(self, statistics: Statistics) -> Selection:
        gram = statistics.inner_products
        norms = np.sqrt(statistics.squared_norms)
        negligible = TOLERANCE * float(np.median(norms))
        weights = np.zeros(len(gram))  # the centre itself
        for _ in range(self.iterations):
            closeness = 1.0 / np.maximum(self.smoothing, distances_from_mixture(gram, weights))
            next_weights = closeness / closeness.sum()
            # By the triangle inequality, the iterate does not move by more.
            movement = float(inner_product(np.abs(next_weights - weights), norms))
            weights = next_weights
            if movement <= negligible:
                break
        return Selection.weighted(weights)


def distances_from_mixture(gram: Float64s, weights: Float64s) -> Float64s:
    """Return the distance of each update from ``sum_k weights[k] * update[k]``.

    ``|d_i - v|^2 = <d_i, d_i> - 2 <d_i, v> + <v, v>``, all differences taken from one centre.

    Parameters
    ----------
    gram : (n, n) float64
        Inner products of the updates' differences from the centre.
    weights : (n,) float64

    Returns
    -------
    (n,) float64
    """
    with_mixture = inner_product(gram, weights)
    of_mixture = inner_product(with_mixture, weights)
    squares = np.diagonal(gram) - 2.0 * with_mixture + of_mixture
    return np.asarray(np.sqrt(squares.clip(min=0.0)), np.float64)
