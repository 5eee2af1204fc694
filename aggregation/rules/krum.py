"""Rules that trust the updates with the closest neighbours: Krum, Multi-Krum and Bulyan.

None of them weighs by the number of examples, since a hostile client would claim many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aggregation.arguments import whole_number
from aggregation.rules.base import (
    Float64s,
    LinearRule,
    Numbers,
    Rule,
    Selection,
    Statistics,
    register,
)
from aggregation.rules.order import mean_of_rows
from aggregation.rules.sorting import ordered_rows


@register
@dataclass(frozen=True)
class Krum(LinearRule):
    """The one update that is closest to its ``n - f - 2`` closest neighbours.

    Blanchard et al., *Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent*,
    NeurIPS 2017, section 4. Of updates with equal scores, the first in claim order.

    Withstands ``f`` hostile updates: with *D* the largest distance between two honest updates, the
    result is within ``D sqrt((n - f - 2) / (n - 2 f - 1))`` of an honest one. (An honest score is at most
    ``(n - f - 2) D^2``, and a hostile update is scored by ``n - 2 f - 1`` honest ones or more.)

    Parameters
    ----------
    f : int
        Hostile updates that are withstood: a round needs ``2 f + 3`` updates.
    """

    f: int
    name = "krum"
    needs_gram = True

    def __post_init__(self) -> None:
        whole_number("f", self.f, at_least=0)

    @property
    def min_updates(self) -> int:
        return 2 * self.f + 3

    def max_hostile(self, n: int) -> int:
        return self.f if n >= self.min_updates else 0

    def select(self, statistics: Statistics) -> Selection:
        scores = krum_scores(statistics.squared_distances, self.f)
        return Selection.equal(np.argsort(scores, kind="stable")[:1])


@register
@dataclass(frozen=True)
class MultiKrum(LinearRule):
    """The mean of the ``m`` updates with the best Krum scores, each with the same weight.

    Blanchard et al., 2017, section 5.

    Withstands ``f`` hostile updates: each of the ``m`` is as close to an honest update as with `krum`.

    Parameters
    ----------
    f : int
        Hostile updates that are withstood: a round needs ``2 f + 3`` updates.
    m : int
        Updates that are averaged: a round needs ``m + f`` updates, or hostile ones would be among them.
        By default ``n - f``, all that can be honest.
    """

    f: int
    m: int | None = None
    name = "multi_krum"
    needs_gram = True

    def __post_init__(self) -> None:
        whole_number("f", self.f, at_least=0)
        if self.m is not None:
            whole_number("m", self.m, at_least=1)

    @property
    def min_updates(self) -> int:
        return max(2 * self.f + 3, (self.m or 0) + self.f)

    def max_hostile(self, n: int) -> int:
        return self.f if n >= self.min_updates else 0

    def averaged(self, n: int) -> int:
        """Return how many of ``n`` updates are averaged."""
        return n - self.f if self.m is None else self.m

    def select(self, statistics: Statistics) -> Selection:
        scores = krum_scores(statistics.squared_distances, self.f)
        return Selection.equal(np.argsort(scores, kind="stable")[: self.averaged(len(scores))])


@register
@dataclass(frozen=True)
class Bulyan(Rule):
    """Krum, repeated to select updates, and then for each coordinate the values closest to the median.

    ``theta = n - 2 f`` updates are selected one by one, each by Krum among those that are left; of
    their values at a coordinate, the ``theta - 2 f`` closest to the median are averaged. El Mhamdi et
    al., *The Hidden Vulnerability of Distributed Learning in Byzantium*, ICML 2018, section 4.

    Withstands ``f`` hostile updates: no coordinate is further outside the range of the honest values
    than this range is wide.

    Parameters
    ----------
    f : int
        Hostile updates that are withstood: a round needs ``4 f + 3`` updates.
    """

    f: int
    name = "bulyan"
    needs_gram = True

    def __post_init__(self) -> None:
        whole_number("f", self.f, at_least=0)

    @property
    def min_updates(self) -> int:
        return 4 * self.f + 3

    def max_hostile(self, n: int) -> int:
        return self.f if n >= self.min_updates else 0

    def select(self, statistics: Statistics) -> Selection:
        distances = statistics.squared_distances
        left = list(range(len(distances)))
        chosen = []
        for _ in range(len(left) - 2 * self.f):
            scores = krum_scores(distances[np.ix_(left, left)], self.f)
            chosen.append(left.pop(int(np.argmin(scores))))
        return Selection.equal(np.array(chosen))

    def combine(
        self, block: Numbers, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        rows = ordered_rows(block, 0, len(block))
        return mean_around_median(rows, len(rows) - 2 * self.f)


def krum_scores(squared_distances: Float64s, f: int) -> Float64s:
    """Return the sum of each update's squared distances to its ``n - f - 2`` closest neighbours.

    At least one neighbour is taken. A sum that overflows is infinite.

    Parameters
    ----------
    squared_distances : (n, n) float64
    f : int

    Returns
    -------
    (n,) float64
    """
    n = len(squared_distances)
    # The closest of all is the update itself, at distance zero.
    closest = np.sort(squared_distances, axis=1)[:, 1 : 1 + max(1, n - f - 2)]
    with np.errstate(over="ignore"):
        return np.asarray(closest.sum(axis=1), np.float64)


def mean_around_median(rows: Sequence[Numbers], count: int) -> Float64s:
    """Return the mean, in float64, of the ``count`` values of each column closest to its median.

    In sorted order they are neighbours. The window that holds them starts at the lowest ``count`` rows.
    In each column it moves up as long as the value above it is closer to the median than its lowest
    value; of two equally close ones, the lower stays.

    Parameters
    ----------
    rows : sequence of (c,) arrays
        Sorted: ``rows[i] <= rows[i + 1]``. Overwritten.
    count : int

    Returns
    -------
    (c,) float64
    """
    n = len(rows)
    twice_median = rows[(n - 1) // 2].astype(np.float64) + rows[n // 2]
    for lowest, above in enumerate(range(count, n)):
        # above - median < median - lowest. Once this is false in a column, it stays false.
        closer = np.add(rows[above], rows[lowest], dtype=np.float64) < twice_median
        # The value that enters the window takes the row, modulo ``count``, of the one that leaves it.
        np.copyto(rows[lowest % count], rows[above], where=closer)
    return mean_of_rows(rows[:count])
