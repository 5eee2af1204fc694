"""Scores: what clients measured of an aggregate, averaged over their examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from aggregation.counts import capped_examples

#: The largest absolute value of a metric. The sum of all scores must stay finite in float64.
MAX_VALUE = 1e300


def is_score(value: object) -> bool:
    """Return whether a value can be averaged: an int or a float of at most `MAX_VALUE`.

    Booleans and NaN cannot.
    """
    return type(value) in (int, float) and abs(value) <= MAX_VALUE  # type: ignore[arg-type]


def weighted_mean_score(
    results: Iterable[Mapping[str, Any]], metric: str, cap: int | None = None
) -> float | None:
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

    Returns
    -------
    float or None
        None if no result has the metric.
    """
    found = [
        (capped_examples(_count(result), cap), result[metric])
        for result in results
        if is_score(result.get(metric))
    ]
    if not found:
        return None
    total = math.fsum(count for count, _ in found)
    return math.fsum(value * (count / total) for count, value in found)


def _count(result: Mapping[str, Any]) -> int:
    count: Any = result.get("num_examples")
    return count if is_score(count) and count > 0 else 1
