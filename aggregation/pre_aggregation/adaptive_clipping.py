"""Adaptive robust clipping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregation.arguments import whole_number
from aggregation.pre_aggregation.base import PreAggregation, register_step
from aggregation.rules.base import Float64s, Statistics
from aggregation.rules.selection import Mixture


@register_step
@dataclass(frozen=True)
class AdaptiveRobustClipping(PreAggregation):
    """The largest differences from the parent are shortened to the length of the next smaller one.

    Of the ``n`` differences, the ``k = 2 f (n - f) / n`` (rounded down) longest are shortened to the norm
    of the one after them. Allouah et al., *Adaptive Gradient Clipping for Robust Federated Learning*,
    arXiv 2405.14432, algorithm 2.

    Withstands ``f`` hostile updates, if the rule does: ``k`` is at least ``f``, so that no difference stays
    longer than the longest honest one, and none becomes longer. What the rule states then holds for the
    shortened updates.

    Parameters
    ----------
    f : int
        Hostile updates that are withstood: a round needs ``2 f + 1`` updates.
    """

    f: int
    name = "arc"
    needs_norms = True
    on_differences = True
    one_by_one = True

    def __post_init__(self) -> None:
        whole_number("f", self.f, at_least=1)

    def updates_for(self, rows: int) -> int:
        return max(rows, 2 * self.f + 1)

    def max_hostile(self, n: int) -> int:
        return self.f if n > 2 * self.f else 0

    def mix(self, statistics: Statistics, seed: bytes) -> Mixture:
        norms = np.sqrt(statistics.squared_norms.clip(min=0.0))
        n = len(norms)
        shortened = 2 * self.f * (n - self.f) // n
        bound = np.sort(norms)[n - shortened - 1]
        longer = norms > bound
        factors = np.divide(bound, norms, out=np.ones(n), where=longer)
        return Mixture(np.diag(factors))

    def counts(self, mixture: Mixture, num_examples: Float64s) -> Float64s:
        return num_examples
