"""The cache for functions of one large key."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep

import pytest

from aggregation.cache import SMALL_KEPT, cache_by_weight


class Result:
    """A result that can be referenced weakly."""


def test_a_small_key_is_computed_once() -> None:
    """A second call with an equal key returns the same result, and so do calls in between."""
    calls: list[str] = []

    @cache_by_weight(weigh=len, small=3)
    def function(key: str) -> Result:
        calls.append(key)
        return Result()

    first = function("abc")
    for position in range(SMALL_KEPT - 1):
        function(str(position))
    assert function("abc") is first
    assert calls.count("abc") == 1


def test_one_large_key_is_kept_beside_the_small_ones() -> None:
    """Large keys do not displace the small ones, and only the result of the last large key is alive."""

    @cache_by_weight(weigh=len, small=3)
    def function(key: str) -> Result:
        return Result()

    small = function("abc")
    results = [weakref.ref(function("large" * n)) for n in range(1, 5)]
    gc.collect()
    assert [result() is not None for result in results] == [False, False, False, True]
    assert function("abc") is small


def test_errors_are_not_kept() -> None:
    """A key whose computation failed is computed again."""
    answers: Iterator[ValueError | int] = iter([ValueError("no"), 5])

    @cache_by_weight(weigh=len, small=3)
    def function(key: str) -> int:
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    with pytest.raises(ValueError, match="no"):
        function("a")
    assert function("a") == 5


def test_threads_share_the_computation_of_a_large_key() -> None:
    """Threads that ask for the same large key at the same time compute it once."""
    barrier = Barrier(4)
    calls: list[str] = []

    @cache_by_weight(weigh=len, small=3)
    def function(key: str) -> str:
        calls.append(key)
        sleep(0.05)
        return key

    def ask(_: int) -> str:
        barrier.wait(timeout=60)
        return function("large")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == ["large"] * 4
    assert calls == ["large"]
