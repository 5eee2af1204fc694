"""The cache that is bounded by weight."""

from __future__ import annotations

import pytest

from aggregation.cache import BoundedCache


def test_a_key_is_made_once() -> None:
    """What was made for a key is given again."""
    made: list[str] = []
    cache = BoundedCache(lambda key: made.append(key) or object(), weigh=len, limit=10)
    assert cache("abc") is cache("abc")
    assert made == ["abc"]


def test_the_oldest_is_forgotten_first() -> None:
    """When the weights pass the limit, what was used longest ago goes."""
    made: list[str] = []
    cache = BoundedCache(lambda key: made.append(key) or object(), weigh=len, limit=10)
    for key in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb"):
        cache(key)
    assert made == ["aaaa", "bbbb", "cccc", "bbbb"]


def test_what_is_too_heavy_is_not_kept() -> None:
    """A key beyond the limit is served, and leaves nothing behind."""
    cache = BoundedCache(lambda key: object(), weigh=len, limit=3)
    assert cache("abcd") is not cache("abcd")


def test_errors_are_not_kept() -> None:
    """What could not be made is tried again."""
    answers = iter([ValueError("no"), 5])

    def make(key: str) -> int:
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    cache = BoundedCache(make, weigh=len, limit=3)
    with pytest.raises(ValueError, match="no"):
        cache("a")
    assert cache("a") == 5
