"""Scores: what clients measured of an aggregate, averaged over their examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aggregation.counts import capped_examples

#: The largest absolute value of a metric. The difference of two scores must stay finite in float64.
MAX_VALUE = 1e300


def is_score(value: object) -> bool:
    """Return whether a value can be averaged: an int or a float of at most `MAX_VALUE`.

    Booleans and NaN cannot.
    """
    return type(value) in (int, float) and abs(value) <= MAX_VALUE  # type: ignore[arg-type]


@dataclass(frozen=True)
class MeanScore:
    """A weighted mean, to which scores can be added one at a time.

    Parameters
    ----------
    value : float or None
        None before the first score.
    weight : float
        The sum of the numbers of examples.
    """

    value: float | None = None
    weight: float = 0

    def add(self, result: Mapping[str, Any], metric: str, cap: int | None) -> MeanScore:
        """Return the mean with the result of one more client; see `weighted_mean_score`."""
        score: Any = result.get(metric)
        if not is_score(score):
            return self
        count = capped_examples(examples_of(result), cap)
        weight = self.weight + count
        value = score if self.value is None else self.value
        return MeanScore(value + (score - value) * (count / weight), weight)


def weighted_mean_score(
    results: Iterable[Mapping[str, Any]], metric: str, cap: int | None = None
) -> MeanScore:
    """Return the mean of a metric over clients, weighted by their numbers of examples.

    Parameters
    ----------
    results : iterable of mapping
        One for each client: its metrics, and `num_examples`, which is 1 where it is missing or is not
        a positive number.
    metric : str
        Results that lack this metric, or whose value is not a score (`is_score`), are left out.
    cap : int, optional
        The largest number of examples that one client may count.
    """
    mean = MeanScore()
    for result in results:
        mean = mean.add(result, metric, cap)
    return mean


def examples_of(result: Mapping[str, Any]) -> int:
    """Return the number of examples of a result; 1 if it has none."""
    count: Any = result.get("num_examples")
    return count if is_score(count) and count > 0 else 1
