"""Rules that sort each coordinate's values: the median and the trimmed mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aggregation.arguments import number, whole_number
from aggregation.errors import RuleError
from aggregation.rules.base import Float64s, Numbers, Rule, Selection, Statistics, register
from aggregation.rules.sorting import ordered_rows

#: Added before a product of a fraction and a count is rounded down: 0.29 * 100 is 28.999999999999996.
_ROUNDING = 1e-9


class CoordinateRule(Rule):
    """A rule that takes all updates, ignores their counts and works on each coordinate alone."""

    def select(self, statistics: Statistics) -> Selection:
        return Selection.equal(range(len(statistics.num_examples)))


@register
@dataclass(frozen=True)
class CoordinateMedian(CoordinateRule):
    """The median of each coordinate; of an even number of updates, the mean of the middle two.

    Yin et al., *Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates*, ICML 2018,
    definition 1.

    Withstands fewer than half of the updates: each coordinate stays between the smallest and the
    largest honest value.

    Parameters
    ----------
    f : int
        Hostile updates that must be withstood: a round needs ``2 f + 1`` updates.
    """

    f: int = 0
    name = "coordinate_median"

    def __post_init__(self) -> None:
        whole_number("f", self.f, at_least=0)

    @property
    def min_updates(self) -> int:
        return 2 * self.f + 1

    def max_hostile(self, n: int) -> int:
        return max(0, n - 1) // 2

    def combine(
        self, block: Numbers, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        n = len(block)
        return mean_of_ranks(block, (n - 1) // 2, n // 2 + 1)


@register
@dataclass(frozen=True)
class TrimmedMean(CoordinateRule):
    """The mean of each coordinate without its ``cut`` smallest and largest values.

    ``cut`` is ``f``, or ``beta * n`` rounded down. Yin et al., 2018, definition 2.

    Withstands ``cut`` hostile updates: each coordinate stays between the smallest and the largest honest
    value. With ``beta`` the cut depends on the number of updates that are present: 0.2 cuts two of ten
    values at each end, but one of nine. ``f`` cuts the same number of any.

    Parameters
    ----------
    beta : float
        The fraction cut off at each end, ``0 <= beta < 0.5``: a round needs ``1 / beta`` updates.
        Either ``beta`` or ``f`` is given.
    f : int
        Hostile updates that are withstood: a round needs ``2 f + 1`` updates.
    """

    beta: float | None = None
    f: int | None = None
    name = "trimmed_mean"

    def __post_init__(self) -> None:
        if (self.beta is None) == (self.f is None):
            raise RuleError(
                "give either beta or f: each of them determines how many values are cut"
            )
        if self.beta is not None:
            number("beta", self.beta, at_least=0, below=0.5)
        if self.f is not None:
            whole_number("f", self.f, at_least=0)

    @property
    def min_updates(self) -> int:
        if self.beta is not None:
            return math.ceil(1 / self.beta - _ROUNDING) if self.beta else 1
        return 2 * (self.f or 0) + 1

    def max_hostile(self, n: int) -> int:
        cut = math.floor(self.beta * n + _ROUNDING) if self.beta is not None else self.f or 0
        return min(cut, max(0, n - 1) // 2)

    def combine(
        self, block: Numbers, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        cut = self.max_hostile(len(block))
        return mean_of_ranks(block, cut, len(block) - cut)


def mean_of_ranks(block: Numbers, first: int, stop: int) -> Float64s:
    """Return the mean of the values of each column with the ranks ``first`` to ``stop - 1``.

    Parameters
    ----------
    block : (n, c) float32 or float64
        Overwritten.

    Returns
    -------
    (c,) float64
    """
    return mean_of_rows(ordered_rows(block, first, stop))


def mean_of_rows(rows: Sequence[Numbers]) -> Float64s:
    """Return the mean of rows, added up in float64 from the first to the last.

    It is never -0.0: which of two zeros a minimum returns depends on their position in a row.
    """
    total = np.zeros(rows[0].shape)
    for row in rows:
        np.add(total, row, out=total)
    return total / len(rows)
