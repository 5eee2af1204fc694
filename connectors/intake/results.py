"""The content of a score: parsed from a client's bytes and checked against its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.conf import settings

from aggregation.errors import UpdateRejected, quoted
from aggregation.scores import MAX_VALUE, is_score
from connectors.intake.metadata import misspelt_name
from models_app.models import FederatedModel
from models_app.schemas import SchemaError, compile_schema

#: Levels of nesting in a score. SQLite's JSON functions accept 1000.
MAX_DEPTH = 20


def parse_results(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a client's bytes, with unique names and no number above `MAX_VALUE`.

    Raises
    ------
    UpdateRejected
    """
    try:
        results = json.loads(
            body.decode("utf-8"),
            parse_constant=_bounded_number,
            parse_float=_bounded_number,
            parse_int=_bounded_number,
            object_pairs_hook=_unique_names,
        )
        _check_storable(results)
    except (ValueError, RecursionError) as error:
        raise UpdateRejected(f"not the JSON of a score: {quoted(error)}") from error
    if not isinstance(results, dict):
        raise UpdateRejected(f"expected a JSON object, got {quoted(results)}")
    return results


def check_results(results: Mapping[str, Any], model: FederatedModel) -> None:
    """Check a score against its model: number of examples, schema and metric.

    Raises
    ------
    UpdateRejected
    """
    for name in results:
        if misspelt_name(name, ["num_examples"]):
            raise UpdateRejected(
                f"{quoted(name)} is not defined: 'num_examples' was probably meant"
            )
    count = results.get("num_examples", 1)
    if type(count) is not int or not 1 <= count <= settings.MAX_NUM_EXAMPLES:
        raise UpdateRejected(
            f"num_examples is {quoted(count)}, expected a whole number from 1 to "
            f"{settings.MAX_NUM_EXAMPLES}"
        )
    check = compile_schema(model.client_agg_results_schema)
    if check:
        try:
            check(results)
        except SchemaError as error:
            raise UpdateRejected(f"against the model's schema: {quoted(error)}") from error
    if not model.score_metric:
        return
    value: Any = results.get(model.score_metric)
    if not is_score(value):
        raise UpdateRejected(f"{quoted(model.score_metric)} is {quoted(value)}, expected a number")


def _bounded_number(text: str) -> float:
    """Return a number. It is bounded even if it is not the metric, because it may become the metric."""
    value = int(text) if text.removeprefix("-").isdecimal() else float(text)
    if not is_score(value):
        raise ValueError(f"{text} is not a finite number up to {MAX_VALUE:g}")
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
