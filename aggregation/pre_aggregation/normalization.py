"""Normalization: all differences get the same length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregation.arguments import number
from aggregation.pre_aggregation.base import PreAggregation, register_step
from aggregation.rules.base import Statistics
from aggregation.rules.selection import Mixture


@register_step
@dataclass(frozen=True)
class Normalization(PreAggregation):
    """Each difference from the parent gets the median norm of the round's differences.

    A difference that is shorter than ``shortest`` times the median says too little: it is replaced by the
    mean of the others. Normalizing follows Cao et al., *FLTrust*, NDSS 2021 (arXiv 2012.13995), section
    IV-B, with the median instead of a norm of the server's own; the lower limit is that of Xu et al.,
    *SignGuard*, ICDCS 2022 (arXiv 2109.05872), section IV. Rules that compare distances prefer short
    differences, so that a hostile one that is short and points backwards passes them; of equal length,
    it does not.

    Withstands fewer than half of the updates, if the rule does: the median lies between the norms of
    honest differences, so that no row is longer than the longest honest difference. What the rule states
    then holds for the rows.

    Parameters
    ----------
    shortest : float
        As a share of the median norm.
    """

    shortest: float = 0.1
    name = "normalize"
    needs_norms = True
    on_differences = True
    equal_norms = True

    def __post_init__(self) -> None:
        number("shortest", self.shortest, at_least=0, at_most=1)

    def max_hostile(self, n: int) -> int:
        return max(0, n - 1) // 2

    def mix(self, statistics: Statistics, seed: bytes) -> Mixture:
        norms = np.sqrt(statistics.squared_norms.clip(min=0.0))
        n, median = len(norms), float(np.median(norms))
        long = (norms >= self.shortest * median) & (norms > 0.0)
        if not long.any():  # All updates are the parent.
            return Mixture(np.eye(n))
        factors = np.divide(median, norms, out=np.zeros(n), where=long)
        coefficients = np.diag(factors)
        coefficients[~long] = factors / long.sum()
        return Mixture(coefficients)
