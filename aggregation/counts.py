"""The numbers of examples that updates count."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from aggregation.errors import AggregationError

#: Whole numbers up to this are exact in float64.
MAX_EXACT = 2**53

#: Without a cap, a rule that withstands no hostile update counts at most this multiple of the median
#: count; a rule that withstands some counts at most the median.
MEAN_CAP_FACTOR = 10


def capped_examples(num_examples: int, cap: int | None) -> int:
    """Return the number of examples that counts, for a model whose `max_num_examples` is ``cap``."""
    return num_examples if cap is None else min(num_examples, cap)


def default_cap(num_examples: Iterable[int], *, robust: bool) -> int | None:
    """Return the number of examples that a client may count where the model sets no cap.

    It is a multiple of the upper median of the counts, which fewer than half of the clients cannot move
    (docs/decisions/2026-11-28-default-caps.md).

    Parameters
    ----------
    num_examples : iterable of int
        What the clients claim.
    robust : bool
        Whether the rule withstands a hostile update. If so, the cap is the median, which bounds the weight
        of *f* hostile clients of *n* by about ``2 f / n``; otherwise `MEAN_CAP_FACTOR` times the median.

    Returns
    -------
    int or None
        None without any count.
    """
    counts = sorted(num_examples)
    factor = 1 if robust else MEAN_CAP_FACTOR
    return factor * counts[len(counts) // 2] if counts else None


def example_counts(num_examples: Any, updates: int) -> list[float]:
    """Return what each update counts, checked and converted to float.

    Counts of which one is below 1 or above 2**53 are scaled by a power of two: the shares of the
    updates stay the same, and products of counts and values neither overflow nor underflow.

    Parameters
    ----------
    num_examples : iterable of numbers or None
        None means that each update counts the same.
    updates : int
        The number of updates.

    Raises
    ------
    AggregationError
        If there is not one count for each update, if a count is not positive and finite in float64,
        or if the counts cannot be added in float64.
    """
    if num_examples is None:
        return [1.0] * updates
    if isinstance(num_examples, (str, bytes, Mapping)) or not isinstance(num_examples, Iterable):
        raise AggregationError(_counts_error(num_examples))
    try:
        given = list(num_examples)
    except TypeError as error:  # An array of zero dimensions.
        raise AggregationError(_counts_error(num_examples)) from error
    if len(given) != updates:
        raise AggregationError(f"num_examples has {len(given)} counts for {updates} updates")
    return _exactly_representable([_count(value) for value in given])


def step_counts(num_steps: Any, updates: int) -> list[int] | None:
    """Return the numbers of training steps of the updates, checked; None if none are given.

    Raises
    ------
    AggregationError
        If there is not one for each update, or one is not a positive whole number.
    """
    if num_steps is None:
        return None
    steps = example_counts(num_steps, updates)
    if any(step < 1 or step != int(step) for step in steps):
        raise AggregationError(f"num_steps must be positive whole numbers; got {num_steps!r:.80}")
    return [int(step) for step in steps]


def _counts_error(value: Any) -> str:
    return f"num_examples must be a sequence with one count for each update; got {value!r:.80}"


def _count(value: Any) -> float:
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        count = float(value)
    except (TypeError, ValueError, OverflowError):
        count = math.nan
    if not sys.float_info.min <= count < math.inf:
        raise AggregationError(
            f"num_examples must be positive numbers, from {sys.float_info.min:.3g} to "
            f"{sys.float_info.max:.3g}; got {value!r:.80}"
        )
    return count


def _exactly_representable(counts: list[float]) -> list[float]:
    if not math.isfinite(sum(counts)):
        raise AggregationError("the sum of num_examples is too large for float64")
    largest = max(counts, default=1.0)
    if min(counts, default=1.0) >= 1 and largest <= MAX_EXACT:
        return counts
    exponent = 53 - math.frexp(largest)[1]
    scaled = [math.ldexp(count, exponent) for count in counts]
    if min(scaled) < sys.float_info.min:
        raise AggregationError("num_examples differ by more than float64 can hold")
    return scaled
