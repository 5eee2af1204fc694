"""Nearest-neighbour mixing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregation.arguments import whole_number
from aggregation.pre_aggregation.base import PreAggregation, register_step
from aggregation.rules.base import Statistics
from aggregation.rules.selection import Mixture


@register_step
@dataclass(frozen=True)
class NearestNeighbourMixing(PreAggregation):
    """Each update is replaced by the mean of the ``n - f`` updates closest to it, itself included.

    Allouah et al., *Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity*, AISTATS
    2023, algorithm 2. Of updates at the same distance, the first in claim order.

    Withstands ``f`` hostile updates, if the rule does: with *D* the largest distance between two honest
    updates, each honest one becomes a mean within ``2 f D / (n - f)`` of the mean of any ``n - f`` honest
    ones (lemma 5; a hostile neighbour is not further away than the honest one whose place it takes).
    What the rule states then holds for these means, which are closer to each other than the updates are.

    Parameters
    ----------
    f : int
        Hostile updates that are withstood: a round needs ``2 f + 1`` updates.
    """

    f: int
    name = "nnm"
    needs_gram = True
    equal_norms = True

    def __post_init__(self) -> None:
        whole_number("f", self.f, at_least=1)

    def updates_for(self, rows: int) -> int:
        return max(rows, 2 * self.f + 1)

    def max_hostile(self, n: int) -> int:
        return self.f if n > 2 * self.f else 0

    def mix(self, statistics: Statistics, seed: bytes) -> Mixture:
        distances = statistics.squared_distances.copy()
        np.fill_diagonal(distances, -1.0)  # An update is its own closest neighbour.
        n = len(distances)
        closest = np.argsort(distances, axis=1, kind="stable")[:, : n - self.f]
        coefficients = np.zeros((n, n))
        np.put_along_axis(coefficients, closest, 1.0, axis=1)
        return Mixture(coefficients, float(n - self.f))
