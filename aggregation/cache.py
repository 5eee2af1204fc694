"""A cache for functions of one large key: few results are kept, whatever a client sends."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

#: How many results of small keys are kept.
SMALL_KEPT = 8


def cache_by_weight(
    weigh: Callable[[Any], int], small: int
) -> Callable[[Callable[[Key], Value]], Callable[[Key], Value]]:
    """Cache a function's results for the last eight small keys and the last large one.

    The clients of a model send the same header again and again, and it is parsed once. A hostile
    client can send megabytes that differ each time; `functools.lru_cache` alone counts entries and
    would keep them all. Errors are not cached.

    Parameters
    ----------
    weigh : callable
        Returns the weight of a key, such as its length in bytes.
    small : int
        The largest weight of a small key.
    """

    def decorate(function: Callable[[Key], Value]) -> Callable[[Key], Value]:
        for_small = lru_cache(maxsize=SMALL_KEPT)(function)
        for_large = lru_cache(maxsize=1)(function)
        lock = Lock()

        @wraps(function)
        def cached(key: Key) -> Value:
            if weigh(key) <= small:
                return for_small(key)
            with lock:  # Two threads would otherwise compute the same large value at the same time.
                return for_large(key)

        return cached

    return decorate
