"""Patience with what passes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

#: Times something is tried in all; with full jitter between, so that many functions do not come back
#: at once.
TRIES = 4
FIRST_PAUSE_SECONDS = 0.2

P = ParamSpec("P")
T = TypeVar("T")


def retry_on(*passing: type[Exception]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function that is called again, after a pause, when it fails with one of these errors; in
    the end, they are raised."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for attempt in range(TRIES - 1):
                try:
                    return function(*args, **kwargs)
                except passing:
                    time.sleep(random.uniform(0, FIRST_PAUSE_SECONDS * 2**attempt))
            return function(*args, **kwargs)

        return call

    return decorate
