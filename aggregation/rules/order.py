"""Rules that look at each coordinate's values in order: the median and the trimmed mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aggregation.arguments import number
from aggregation.rules.base import Float64s, Numbers, Rule, Selection, Statistics, register
from aggregation.rules.sorting import ordered_rows


class CoordinateRule(Rule):
    """A rule that takes all updates and works on each coordinate alone; counts do not matter."""

    def select(self, statistics: Statistics) -> Selection:
        return Selection.equal(range(len(statistics.num_examples)))


@register
@dataclass(frozen=True)
class CoordinateMedian(CoordinateRule):
    """The median of each coordinate; of an even number of updates, the mean of the middle two.

    Yin et al., *Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates*, ICML 2018,
    definition 1.
    """

    name = "coordinate_median"

    def combine(
        self, block: Numbers, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        n = len(block)
        return mean_of_ranks(block, (n - 1) // 2, n // 2 + 1)


@register
@dataclass(frozen=True)
class TrimmedMean(CoordinateRule):
    """The mean of each coordinate without its ``int(beta * n)`` smallest and largest values.

    Yin et al., 2018, definition 2.

    Parameters
    ----------
    beta : float
        The fraction cut off at each end, ``0 <= beta < 0.5``.
    """

    beta: float
    name = "trimmed_mean"

    def __post_init__(self) -> None:
        number("beta", self.beta, at_least=0, below=0.5)

    def combine(
        self, block: Numbers, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        cut = int(self.beta * len(block))
        return mean_of_ranks(block, cut, len(block) - cut)


def mean_of_ranks(block: Numbers, first: int, stop: int) -> Float64s:
    """The mean, in float64, of the values of each column whose rank is from ``first`` to before ``stop``.

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
    """The mean of rows, added up in float64 from the first to the last.

    It is never -0.0: which of two zeros a minimum gives depends on where in a row they are.
    """
    total = np.zeros(rows[0].shape)
    for row in rows:
        np.add(total, row, out=total)
    return total / len(rows)
