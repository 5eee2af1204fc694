"""Rules that bound how far an update can move the result, by clipping or by leaving updates out.

They measure each update's difference from the parent aggregate, and need a parent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregation.arguments import number, whole_number
from aggregation.rules.base import Float64s, LinearRule, Selection, Statistics, register
from aggregation.rules.geometric import distances_from_mixture


@register
@dataclass(frozen=True)
class NormClippedMean(LinearRule):
    """The weighted mean of the differences from the parent, each shortened to ``max_norm`` at most.

    ``parent + sum_k n_k d_k min(1, max_norm / |d_k|) / sum_k n_k``. Sun et al., *Can You Really
    Backdoor Federated Learning?*, 2019, section 5 (norm thresholding).

    Withstands any number of hostile updates in this sense only: the result is within ``max_norm`` of the
    parent.

    Parameters
    ----------
    max_norm : float
        Euclidean norm of a difference, over all optimized tensors together.
    """

    max_norm: float
    name = "norm_clipped_mean"
    weighs_by_examples = True
    needs_norms = True
    on_differences = True

    def __post_init__(self) -> None:
        number("max_norm", self.max_norm, above=0)

    def max_hostile(self, n: int) -> int:
        return n

    def select(self, statistics: Statistics) -> Selection:
        counts = statistics.num_examples
        shortened = counts * clip_factors(np.sqrt(statistics.squared_norms), self.max_norm)
        return Selection.weighted(shortened, total=float(counts.sum()))


@register
@dataclass(frozen=True)
class CenteredClipping(LinearRule):
    """Steps from the parent, each by the mean of the clipped differences of the updates from the iterate.

    ``v <- v + sum_k (w_k - v) min(1, tau / |w_k - v|) / n``, starting at the parent, with the same
    weight for each update. Karimireddy, He, Jaggi, *Learning from History for Byzantine Robust
    Optimization*, ICML 2021, algorithm 2. Every ``v`` is a mixture of parent and updates, so that the
    iteration needs only their inner products.

    Withstands any number of hostile updates in this sense only: the result is within
    ``tau * iterations`` of the parent. Without ``tau`` it withstands fewer than half of the updates: with
    *b* the largest norm of an honest difference, the result is within ``b * iterations`` of the parent.

    Parameters
    ----------
    tau : float
        The radius of clipping, over all optimized tensors together. By default the median of the
        norms of the round's differences, which no minority can move beyond the honest ones.
    iterations : int
        The number of steps.
    """

    tau: float | None = None
    iterations: int = 1
    name = "centered_clipping"
    needs_gram = True
    on_differences = True

    def __post_init__(self) -> None:
        if self.tau is not None:
            number("tau", self.tau, above=0)
        whole_number("iterations", self.iterations, at_least=1)

    def max_hostile(self, n: int) -> int:
        return max(0, n - 1) // 2 if self.tau is None else n

    def select(self, statistics: Statistics) -> Selection:
        gram = statistics.inner_products
        n, tau = len(gram), self.tau
        if tau is None:
            tau = float(np.median(np.sqrt(statistics.squared_norms)))
        # The iterate is sum_k weights[k] * d_k / n. It is divided once, at the end: nine differences of
        # -1 over nine are -1, and nine times -1/9 is less.
        weights = np.zeros(n)
        for _ in range(self.iterations):
            factors = clip_factors(distances_from_mixture(gram, weights / n), tau)
            weights = weights * (1.0 - factors.mean()) + factors
        return Selection.weighted(weights, total=float(n))


@register
@dataclass(frozen=True)
class NormFilteredMean(LinearRule):
    """The weighted mean of the updates whose difference from the parent has a usual norm.

    An update is left out if the modified z-score of its norm exceeds the threshold:
    ``0.6745 (|d_k| - median) / MAD``. Iglewicz and Hoaglin, *How to Detect and Handle Outliers*, 1993.
    If more than half of the norms are equal, only those are kept.

    Withstands fewer than half of the updates: with *a* the smallest and *b* the largest norm of an honest
    difference, the result is within ``b + threshold (b - a) / 0.6745`` of the parent.

    Parameters
    ----------
    threshold : float
        The authors recommend 3.5. At least half of the updates are always within 0.6745 and are kept.
    """

    threshold: float = 3.5
    name = "norm_filtered_mean"
    weighs_by_examples = True
    needs_norms = True
    on_differences = True

    def __post_init__(self) -> None:
        number("threshold", self.threshold, above=0.6745)

    def max_hostile(self, n: int) -> int:
        return max(0, n - 1) // 2

    def select(self, statistics: Statistics) -> Selection:
        norms = np.sqrt(statistics.squared_norms)
        deviations = np.abs(norms - np.median(norms))
        usual = 0.6745 * deviations <= self.threshold * np.median(deviations)
        return Selection.weighted(np.where(usual, statistics.num_examples, 0.0))


def clip_factors(norms: Float64s, bound: float) -> Float64s:
    """Return the factors that shorten norms to a bound: ``min(1, bound / norm)``; 1 if both are 0."""
    return np.divide(bound, norms, out=np.ones(len(norms)), where=norms > bound)
