"""Scores: what a client measured of an aggregate, as JSON that the aggregator accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from . import limits
from .errors import BadScore


def encode_score(results: Mapping[str, Any]) -> bytes:
    """Return a score as JSON; numbers of numpy, and of frameworks with ``item``, become plain ones.

    Raises
    ------
    BadScore
        If the aggregator would reject it.
    """
    try:
        body = json.dumps(results, allow_nan=False, default=lambda value: value.item()).encode()
    except (AttributeError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise BadScore(f"{results} cannot be written as JSON: {error}") from error
    if len(body) > limits.MAX_SCORE_BYTES:
        raise BadScore(f"{len(body)} bytes, at most {limits.MAX_SCORE_BYTES} are accepted")
    for number in _numbers(json.loads(body)):
        if abs(number) > limits.MAX_SCORE_VALUE:
            raise BadScore(f"{number:g} is not a finite number up to {limits.MAX_SCORE_VALUE:g}")
    return body


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float):
        yield value
