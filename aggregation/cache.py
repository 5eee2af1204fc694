"""A cache that is bounded by how much it holds rather than by how many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Remembers the results of a function for the arguments used last.

    The clients of a model send the same header again and again; it is parsed once. A stranger can
    send headers of megabytes that differ each time: `functools.lru_cache`, which counts entries,
    would keep them all.

    Parameters
    ----------
    make : callable
        Gives the value for a key, or raises; what it raises is not remembered.
    weigh : callable
        What a key and its value weigh.
    limit : int
        What is kept may weigh in all. A heavier key is not kept at all.
    """

    def __init__(
        self, make: Callable[[Key], Value], weigh: Callable[[Key], int], limit: int
    ) -> None:
        self._make = make
        self._weigh = weigh
        self._limit = limit
        self._weight = 0
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = Lock()

    def __call__(self, key: Key) -> Value:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = self._make(key)
        with self._lock:
            self._keep(key, value)
        return value

    def _keep(self, key: Key, value: Value) -> None:
        if key not in self._values:
            self._weight += self._weigh(key)
        self._values[key] = value
        while self._weight > self._limit:
            oldest, _ = self._values.popitem(last=False)
            self._weight -= self._weigh(oldest)
