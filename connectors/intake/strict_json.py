"""JSON from strangers: bounded, unambiguous, and such that every database can store it."""

from __future__ import annotations

import json
from typing import Any

from aggregation.scores import MAX_VALUE, is_score

#: Levels of nesting. SQLite's JSON functions accept 1000.
MAX_DEPTH = 20


def parse_strict_json(text: bytes | str) -> Any:
    """Return a JSON value with unique names, no number above `MAX_VALUE` and no NaN.

    Raises
    ------
    ValueError
    """
    try:
        value = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            parse_constant=_bounded_number,
            parse_float=_bounded_number,
            parse_int=_bounded_number,
            object_pairs_hook=_unique_names,
        )
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from error
    _check_storable(value)
    return value


def _bounded_number(text: str) -> float:
    """Return a number. It is bounded even if it is not the metric, because it may become the metric."""
    value = int(text) if text.removeprefix("-").isdecimal() else float(text)
    if not is_score(value):
        raise ValueError(f"{text[:80]} is not a finite number up to {MAX_VALUE:g}")
    return value


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a name is given twice")
    return named


def _check_storable(value: Any, depth: int = 0) -> None:
    """Refuse what JSON allows and a database's JSON does not."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        value.encode("utf-8")  # PostgreSQL accepts neither half of a surrogate pair
        if "\0" in value:  # nor the zero character.
            raise ValueError("a string contains the zero character")
    elif isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            _check_storable(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)
