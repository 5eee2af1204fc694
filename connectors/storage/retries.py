"""Retries of calls that may succeed later."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from aggregation.errors import TemporarilyUnavailable

#: Attempts in all, with exponential backoff and full jitter between them, so that many functions do
#: not retry at the same moment.
TRIES = 4
FIRST_PAUSE_SECONDS = 0.2

P = ParamSpec("P")
T = TypeVar("T")


def retry_on(*errors: type[Exception]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function that is called again, after a pause, when it raises one of these errors.

    The error of the last attempt is raised.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for attempt in range(TRIES - 1):
                try:
                    return function(*args, **kwargs)
                except errors:
                    time.sleep(random.uniform(0, FIRST_PAUSE_SECONDS * 2**attempt))
            return function(*args, **kwargs)

        return call

    return decorate


#: For calls that the SDK has given up or, like reading a body, does not retry.
retry_if_unavailable = retry_on(TemporarilyUnavailable)
