"""Scores: what a client measured of an aggregate, as JSON that the aggregator accepts."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from . import limits
from .errors import BadScore
from .weights import is_unicode


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
        raise BadScore(f"{reprlib.repr(results)} cannot be written as JSON: {error}") from error
    if len(body) > limits.MAX_SCORE_BYTES:
        raise BadScore(f"{len(body)} bytes, at most {limits.MAX_SCORE_BYTES} are accepted")
    _check_values(json.loads(body))
    return body


def _check_values(value: Any, depth: int = 0) -> None:
    """Refuse what JSON allows and the aggregator's database does not."""
    if depth > limits.MAX_SCORE_DEPTH:
        raise BadScore(f"nested deeper than {limits.MAX_SCORE_DEPTH}")
    if isinstance(value, str) and ("\0" in value or not is_unicode(value)):
        raise BadScore(f"{value!r} has the zero character or half a surrogate pair")
    if isinstance(value, int | float) and abs(value) > limits.MAX_SCORE_VALUE:
        raise BadScore(
            f"a number is not finite and up to {limits.MAX_SCORE_VALUE:g}: {str(value)[:40]}"
        )
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for each in value:
            _check_values(each, depth + 1)
