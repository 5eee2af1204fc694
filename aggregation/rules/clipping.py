"""Rules that bound how far an update may push: clipping, and leaving out.

They measure each update's difference from the parent aggregate, and need one.
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

    Parameters
    ----------
    max_norm : float
        Euclidean norm of a difference, over all tensors together; positive.
    """

    max_norm: float
    name = "norm_clipped_mean"
    needs_norms = True
    on_differences = True

    def __post_init__(self) -> None:
        number("max_norm", self.max_norm, above=0)

    def select(self, statistics: Statistics) -> Selection:
        counts = statistics.num_examples
        shortened = counts * clipped(np.sqrt(statistics.squared_norms), self.max_norm)
        return Selection.weighted(shortened, total=float(counts.sum()))


@register
@dataclass(frozen=True)
class CenteredClipping(LinearRule):
    """Steps from the parent by the mean of the updates' differences from where it stands, each clipped.

    ``v <- v + sum_k (w_k - v) min(1, tau / |w_k - v|) / n``, from the parent, each update counting the
    same. Karimireddy, He, Jaggi, *Learning from History for Byzantine Robust Optimization*, ICML 2021,
    algorithm 2. Every ``v`` is a mixture of parent and updates, so that the iteration runs on their
    inner products.

    Parameters
    ----------
    tau : float
        The radius of clipping; positive.
    iterations : int
        Steps.
    """

    tau: float
    iterations: int = 1
    name = "centered_clipping"
    needs_gram = True
    on_differences = True

    def __post_init__(self) -> None:
        number("tau", self.tau, above=0)
        whole_number("iterations", self.iterations, at_least=1)

    def select(self, statistics: Statistics) -> Selection:
        gram = statistics.inner_products
        weights = np.zeros(len(gram))
        for _ in range(self.iterations):
            factors = clipped(distances_from_mixture(gram, weights), self.tau)
            weights = weights * (1.0 - factors.mean()) + factors / len(gram)
        return Selection.weighted(weights, total=1.0)


@register
@dataclass(frozen=True)
class NormFilteredMean(LinearRule):
    """The weighted mean of the updates whose difference from the parent is no longer and no shorter
    than is usual among them.

    Left out is an update whose norm has a modified z-score beyond the threshold:
    ``0.6745 (|d_k| - median) / MAD``. Iglewicz and Hoaglin, *How to Detect and Handle Outliers*, 1993.
    Where more than half of the norms are equal, the mean absolute deviation takes the MAD's place.

    Parameters
    ----------
    threshold : float
        The authors recommend 3.5. Half of the updates, or more, are always within 0.6745: with a
        threshold above, those stay at least.
    """

    threshold: float = 3.5
    name = "norm_filtered_mean"
    needs_norms = True
    on_differences = True

    def __post_init__(self) -> None:
        number("threshold", self.threshold, above=0.6745)

    def select(self, statistics: Statistics) -> Selection:
        scores = modified_z_scores(np.sqrt(statistics.squared_norms))
        usual = np.abs(scores) <= self.threshold
        return Selection.weighted(np.where(usual, statistics.num_examples, 0.0))


def clipped(norms: Float64s, bound: float) -> Float64s:
    """The factors that bring norms down to a bound: ``min(1, bound / norm)``."""
    return bound / np.maximum(norms, bound)


def modified_z_scores(values: Float64s) -> Float64s:
    """How far each value is from the median, in robust standard deviations; zero if all are equal.

    Parameters
    ----------
    values : (n,) float64

    Returns
    -------
    (n,) float64
    """
    from_median = values - np.median(values)
    scale = float(np.median(np.abs(from_median))) / 0.6745
    if scale == 0.0:
        scale = 1.253314 * float(np.abs(from_median).mean())
    return from_median / scale if scale else np.zeros_like(values)
