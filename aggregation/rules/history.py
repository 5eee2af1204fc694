"""A rule that remembers in which direction each client pulled in earlier rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregation.arguments import whole_number
from aggregation.rules.base import Float64s, LinearRule, Selection, Statistics, register
from aggregation.rules.clipping import clip_factors
from aggregation.rules.spectral import keep_most_central


@register
@dataclass(frozen=True)
class HistoryFilter(LinearRule):
    """The mean of clipped differences, without clients that pulled against the others over many rounds.

    Each difference from the parent is shortened to the median norm at most. Up to ``f`` updates are
    left out: those with the lowest sum of cosines, if it is negative. The sum is over the client's
    earlier updates (`Statistics.directions`), and this one, whose cosine is taken with the mean of
    the other updates that `spectral_filter` would keep. Late in training honest updates hardly
    agree, and a hostile one cannot be distinguished from an unusual one within a round; over many rounds it
    can. That history is necessary is the argument of Karimireddy, He, Jaggi, *Learning from History
    for Byzantine Robust Optimization*, ICML 2021, section 3; summing cosines is after Muñoz-
    González et al., *Byzantine-Robust Federated Machine Learning through Adaptive Model Averaging*,
    2019.

    Withstands fewer than half of the updates in this sense only: with *b* the largest norm of an honest
    difference, the result is within *b* of the parent.

    Parameters
    ----------
    f : int
        Clients that are left out at most: a round needs ``2 f + 1`` updates.
    """

    f: int
    name = "history_filter"
    needs_gram = True
    needs_directions = True
    on_differences = True

    def __post_init__(self) -> None:
        whole_number("f", self.f, at_least=0)

    @property
    def min_updates(self) -> int:
        return 2 * self.f + 1

    def max_hostile(self, n: int) -> int:
        return max(0, n - 1) // 2

    def select(self, statistics: Statistics) -> Selection:
        norms = np.sqrt(statistics.squared_norms.clip(min=0.0))
        factors = clip_factors(norms, float(np.median(norms)))
        clipped = statistics.inner_products * np.multiply.outer(factors, factors)
        sums = cosines_with_others(clipped, keep_most_central(clipped, self.f))
        if statistics.directions is not None:
            sums = sums + statistics.directions
        lowest = np.argsort(sums, kind="stable")[: self.f]
        left_out = lowest[sums[lowest] < 0.0]
        kept = np.ones(len(norms))
        kept[left_out] = 0.0
        if not (kept * factors).any():  # All that is left are the parent.
            return Selection((int(np.argmax(kept)),), (0.0,), 1.0)
        return Selection.weighted(kept * factors, total=float(kept.sum()))


def cosines_with_others(gram: Float64s, members: NDArray[np.intp]) -> Float64s:
    """Return the cosine of each vector and the mean of the members other than itself.

    Zero if one of them is zero. Summed in numpy's fixed order.

    Parameters
    ----------
    gram : (n, n) float64
    members : (k,) int

    Returns
    -------
    (n,) float64
    """
    largest = np.abs(gram).max()
    scaled = gram / largest if largest > 0.0 else gram
    is_member = np.zeros(len(gram))
    is_member[members] = 1.0
    own = is_member * np.diagonal(scaled)
    with_sum = np.sum(scaled * is_member, axis=1)
    inner = with_sum - own
    squares = np.sum(is_member * with_sum) - 2.0 * is_member * with_sum + own
    lengths = np.sqrt((np.diagonal(scaled) * squares).clip(min=0.0))
    cosines = np.divide(inner, lengths, out=np.zeros(len(gram)), where=lengths > 1e-12)
    return np.asarray(cosines.clip(-1.0, 1.0), np.float64)
